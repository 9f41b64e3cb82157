"""torch -> ONNX, dense: the plain export that every lowering starts from."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, overload

import onnx
import torch
from torch import nn

from sslcli.errors import GraphError
from sslcli.files import check_writable
from sslcli.graph.program import Program
from sslcli.graph.trace import trace
from sslcli.lowering import check, protos
from sslcli.lowering.check import Reference
from sslcli.lowering.clean import clean, restate_shapes
from sslcli.lowering.files import write_onnx
from sslcli.lowering.fold_norm import fold_norm
from sslcli.lowering.opset import to_opset
from sslcli.lowering.powers import simplify_powers
from sslcli.lowering.precision import convert
from sslcli.lowering.translations import read_once
from sslcli.options.export import OPSET, DType

RECORD_KEY = "sslcli"
BATCH = "batch"
_ORDINARY_BATCHES = (1, 3)
_EXPORTER_OPSET = 18  # what torch's translations are written for


class SupportsJson(Protocol):
    """What is stored as the model's record."""

    def to_json(self) -> str:
        """The record as one JSON document."""
        ...


@overload
def export_onnx(
    model: nn.Module,
    example: tuple[torch.Tensor, ...],
    path: None = None,
    *,
    record: SupportsJson | None = None,
    opset: int = OPSET,
    dtype: DType = "fp32",
) -> onnx.ModelProto: ...
@overload
def export_onnx(
    model: nn.Module,
    example: tuple[torch.Tensor, ...],
    path: Path,
    *,
    record: SupportsJson | None = None,
    opset: int = OPSET,
    dtype: DType = "fp32",
) -> Path: ...
def export_onnx(
    model: nn.Module,
    example: tuple[torch.Tensor, ...],
    path: Path | None = None,
    *,
    record: SupportsJson | None = None,
    opset: int = OPSET,
    dtype: DType = "fp32",
) -> onnx.ModelProto | Path:
    """Export a module in eval form to plain ONNX and check it against the module.

    The batch axis is open and named ``batch``; BatchNorm is folded; the one input and output are called
    ``input`` and ``output``, several keep the names of the signature (``output_0``, ``output_1``, ...).
    Outputs of onnxruntime on the CPU are compared with the module's on fresh inputs at batch 1 and 3.

    Args:
        model: module, TracedModule too; left as it was, training flags included.
        example: positional inputs, tensors with the batch on axis 0.
        path: where to write; None returns the model instead.
        record: stored as JSON in ``metadata_props['sslcli']``.
        opset: version of the default operator set, 13 or newer.
        dtype: ``fp32``, or 16 bit weights and arithmetic with inputs and outputs still fp32.

    Raises:
        GraphError: the module cannot be traced or has an operator without ONNX form.
        VerificationError: ONNX and torch outputs differ; nothing is written.
        OutputError: ``path`` cannot be written.
    """
    if path is not None:
        check_writable(path)
    proto, references = translate(model, example, opset)
    proto = convert(proto, dtype)
    check.require_references(proto, references, check.TOLERANCE[dtype])
    set_record(proto, record)
    return proto if path is None else write_onnx(proto, path)


def translate(
    model: nn.Module, example: tuple[torch.Tensor, ...], opset: int
) -> tuple[onnx.ModelProto, list[Reference]]:
    """The dense model in float32, and fresh inputs with the outputs that the module gives for them.

    Raises:
        GraphError: the module cannot be traced or has an operator without ONNX form.
    """
    source, example = _on_cpu(model, example)
    with _eval_form(source), torch.no_grad():
        program = trace(source, example)
        proto = _translate(program)
        _name_ends(proto)
        batches = _ORDINARY_BATCHES if program.batch_symbol else (program.batch_hint,)
        references = [_reference(proto, source, example, batch_size) for batch_size in batches]
    return finish(proto, opset), references


def finish(model: onnx.ModelProto, opset: int | None = None) -> onnx.ModelProto:
    """Tidy, fold norms, simplify powers, bring to ``opset``, check the structure: what every model gets.

    Works in place unless the opset changes; None leaves the opset.
    """
    model = simplify_powers(fold_norm(clean(model)))
    if opset is not None:
        model = to_opset(model, opset)
    model.producer_name, model.producer_version = "sslcli", ""
    try:
        check.check_structure(model)
    except onnx.shape_inference.InferenceError:  # what the file says of its shapes is not what they are
        restate_shapes(model)
        check.check_structure(model)
    return model


def set_record(model: onnx.ModelProto, record: SupportsJson | None) -> None:
    """Store a record in the model; None leaves what it has."""
    if record is None:
        return
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**kept, RECORD_KEY: record.to_json()})


def _on_cpu(
    model: nn.Module, example: tuple[torch.Tensor, ...]
) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.device.type != "cpu" for tensor in tensors):
        model = copy.deepcopy(model).cpu()
    return model, tuple(tensor.detach().cpu() for tensor in example)


@contextlib.contextmanager
def _eval_form(model: nn.Module) -> Iterator[None]:
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's notes on optional packages and its own deprecations while it exports."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", module=r"(torch|onnxscript|onnx_ir|typing_extensions|copyreg)\b"
            )
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _translate(program: Program) -> onnx.ModelProto:
    try:
        with _quiet(), read_once():
            written = torch.onnx.export(
                program.exported, (), dynamo=True, verbose=False, opset_version=_EXPORTER_OPSET
            )
    except Exception as error:  # the exporter wraps errors of every kind
        raise GraphError(
            f"the graph has no ONNX form ({_first_line(error.__cause__ or error)})",
            "replace that operator in the model",
        ) from error
    if written is None:
        raise GraphError(
            "the ONNX exporter gave nothing back", "please report the model; it is a fault of sslcli"
        )
    proto: onnx.ModelProto = written.model_proto
    return proto


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _name_ends(model: onnx.ModelProto) -> None:
    """Name inputs, outputs and the batch axis; drop the shapes in between, which hold torch's symbols."""
    graph = model.graph
    del graph.value_info[:]
    symbols = {
        value.type.tensor_type.shape.dim[0].dim_param
        for value in graph.input
        if value.type.tensor_type.shape.dim
    }
    for value in [*graph.input, *graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param in symbols:
                dim.dim_param = BATCH
    ins = ["input"] if len(graph.input) == 1 else [value.name for value in graph.input]
    outs = ["output"] if len(graph.output) == 1 else [f"output_{i}" for i in range(len(graph.output))]
    _rename_ends(graph, [value.name for value in graph.input], ins)
    _rename_ends(graph, [value.name for value in graph.output], outs)


def _rename_ends(graph: onnx.GraphProto, old: list[str], new: list[str]) -> None:
    taken = protos.names(graph)
    for before, after in zip(old, new, strict=True):
        if before != after:
            if after in taken:
                protos.rename(graph, {after: protos.fresh(f"{after}_inner", taken)})
            protos.rename(graph, {before: after})
            taken = protos.names(graph)


def _reference(
    proto: onnx.ModelProto, model: nn.Module, example: tuple[torch.Tensor, ...], batch_size: int
) -> Reference:
    inputs = [_fresh_like(tensor, batch_size, seed) for seed, tensor in enumerate(example)]
    names = [value.name for value in check.graph_inputs(proto.graph)]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    # Clones: a module may write to its input.
    expected = _flatten(model(*(tensor.clone() for tensor in inputs)))
    return Reference(feeds, [tensor.numpy() for tensor in expected])


def _fresh_like(example: torch.Tensor, batch_size: int, seed: int) -> torch.Tensor:
    """A random tensor in the range of the example, without touching torch's global generator."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch_size, *example.shape[1:])
    if example.is_floating_point():
        spread = float(example.std(correction=0)) or 1.0
        noise = torch.randn(shape, generator=generator)
        return (noise * spread + float(example.mean())).to(example.dtype)
    low, high = int(example.min()), int(example.max())
    return torch.randint(low, high + 1, shape, generator=generator).to(example.dtype)


def _flatten(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in _flatten(part)]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _flatten(part)]
    return []
