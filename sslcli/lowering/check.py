"""Does an ONNX model compute what it should? Structure, fresh inputs, relative error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from sslcli.bench.placement import PROVIDER_NAMES, require_provider
from sslcli.errors import DeviceError, GraphError, ModelError, VerificationError
from sslcli.lowering import protos
from sslcli.lowering.protos import Array
from sslcli.options.common import Provider
from sslcli.reference import describe

TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2}
ONE_FILE_BYTES = 2**31 - 2**20  # protobuf's limit, less room for the graph itself


def session(
    model: onnx.ModelProto | bytes | Path,
    *,
    provider: Provider = "cpu",
    threads: int = 1,
    optimise: bool = True,
) -> ort.InferenceSession:
    """An inference session with the threads set, warnings off and no fall-back to another provider.

    Raises:
        DeviceError: the provider is not in this build of onnxruntime.
    """
    require_provider(provider)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what goes wrong is raised and told once
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return ort.InferenceSession(
        str(source) if isinstance(source, Path) else source,
        sess_options=options,
        providers=[(PROVIDER_NAMES[provider], {"use_tf32": "0"} if provider == "cuda" else {})],
    )


def run(
    model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array], provider: Provider = "cpu"
) -> list[Array]:
    """The outputs, those that are sequences or maps as their parts one after the other."""
    return list(_flat(session(model, provider=provider).run(None, dict(feeds))))


def run_known(
    model: onnx.ModelProto, feeds: Mapping[str, Array], what: str, provider: Provider = "cpu"
) -> list[Array]:
    """``run``, with whatever ONNX Runtime says of the model as one error.

    Raises:
        GraphError: it does not run.
        DeviceError: the provider is missing.
    """
    try:
        return run(model, feeds, provider)
    except (DeviceError, MemoryError):
        raise
    except Exception as error:  # onnxruntime's errors have no common base but Exception
        raise GraphError(
            f"ONNX Runtime does not run {what} ({describe(error)})", "export it again"
        ) from error


def _flat(value: Any) -> Iterator[Array]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part)
    elif isinstance(value, dict):
        yield np.array(list(value.values()))
    elif value is not None:
        yield np.asarray(value)


def tolerance(model: onnx.ModelProto, dtype: str = "fp32") -> float:
    """The relative error that a model may have when written in ``dtype``: no less than its own weights'."""
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    own = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    return max(TOLERANCE[dtype], *(TOLERANCE[name] for kind, name in own.items() if kind in kinds), 0.0)


def relative_error(expected: Array, got: Array) -> float:
    """||expected - got|| / ||expected|| in float64; infinity for other shapes or new NaNs.

    Where ``expected`` is zero the error is absolute. Equal infinities and NaNs count as equal.
    """
    if expected.shape != got.shape:
        return float("inf")
    wide, other = expected.astype(np.float64), got.astype(np.float64)
    same = (wide == other) | (np.isnan(wide) & np.isnan(other))
    with np.errstate(invalid="ignore"):  # equal infinities have no difference
        difference = np.where(same, 0.0, wide - other)
    if not np.isfinite(difference).all():
        return float("inf")
    norm = float(np.linalg.norm(np.where(np.isfinite(wide), wide, 0.0)))
    return float(np.linalg.norm(difference)) / (norm or 1.0)


def worst_error(expected: Sequence[Array], got: Sequence[Array]) -> float:
    """The largest relative error over all outputs."""
    if len(expected) != len(got):
        return float("inf")
    return max((relative_error(a, b) for a, b in zip(expected, got, strict=True)), default=0.0)


def require_equal(expected: Sequence[Array], got: Sequence[Array], tolerance: float, what: str) -> float:
    """The worst relative error.

    Raises:
        VerificationError: it exceeds the tolerance.
    """
    error = worst_error(expected, got)
    if not error <= tolerance:
        raise VerificationError(
            f"{what}: relative error {error:.2e} exceeds {tolerance:.0e}", "nothing was written"
        )
    return error


@dataclass(frozen=True)
class Reference:
    """Inputs by name, and the outputs that a model must give for them."""

    feeds: Mapping[str, Array]
    expected: Sequence[Array]


@dataclass(frozen=True)
class Errors:
    """How far outputs lie from their references: in value, and relative to the norm."""

    max_abs: float
    max_rel: float


def require_references(
    model: onnx.ModelProto, references: Sequence[Reference], tolerance: float, what: str = "the ONNX model"
) -> Errors:
    """Run a model on its references.

    Raises:
        VerificationError: an output is off by more than ``tolerance``, relative to its norm.
    """
    absolute, relative = 0.0, 0.0
    for reference in references:
        try:
            got = run_known(model, reference.feeds, what)
        except GraphError as error:
            raise VerificationError(error.what, "nothing was written; please report it") from error
        batch_size = next((len(values) for values in reference.feeds.values() if values.ndim), 1)
        name = f"the output of {what} at batch {batch_size}"
        relative = max(relative, require_equal(reference.expected, got, tolerance, name))
        pairs = zip(reference.expected, got, strict=True)
        absolute = max([absolute, *(_largest_difference(a, b) for a, b in pairs)])
    return Errors(absolute, relative)


def references_of(
    model: onnx.ModelProto, where: str = "the model", *, input_shape: tuple[int, ...] | None = None
) -> list[Reference]:
    """Fresh inputs at batch 1 and 3, or at the batch that is fixed, with the model's own outputs.

    Args:
        model: runs on the CPU.
        where: how errors name it.
        input_shape: sizes of the axes beside the batch, where inputs leave them open.

    Raises:
        ModelError: the model does not run, or holds NaN.
        GraphError: an input has a type that cannot be drawn.
    """
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and np.isnan(protos.array(tensor)).any():
            raise ModelError(
                f"the weight {tensor.name[:80]!r} of {where} holds NaN", "use the model of a sound training"
            )
    dims = [value.type.tensor_type.shape.dim for value in graph_inputs(model.graph)]
    is_open = any(d and not d[0].HasField("dim_value") for d in dims)
    sizes = (1, 3) if is_open else (1,)
    feeds = [fresh_feeds(model, batch_size=size, seed=size, input_shape=input_shape) for size in sizes]
    try:
        return [Reference(each, run_known(model, each, where)) for each in feeds]
    except GraphError as error:
        guessed = input_shape is None and any(not d.HasField("dim_value") for axes in dims for d in axes[1:])
        hint = (
            "its inputs leave axes open: say their size with --input-shape" if guessed else "export it again"
        )
        raise ModelError(error.what, hint) from error


def _largest_difference(expected: Array, got: Array) -> float:
    wide, other = expected.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.abs(wide - other), nan=0.0).max(initial=0.0))


def check_structure(model: onnx.ModelProto) -> None:
    """Run onnx.checker on a model that fits in one file."""
    if protos.size_bytes(model) >= ONE_FILE_BYTES:
        return
    # The standard wants the rank of every output, which operators of a runtime's own leave unknown.
    silent = [
        tensor
        for value in model.graph.output
        if value.type.HasField("tensor_type") and not (tensor := value.type.tensor_type).HasField("shape")
    ]
    for tensor in silent:
        tensor.shape.SetInParent()
    try:
        onnx.checker.check_model(model, full_check=not silent)
    finally:
        for tensor in silent:
            tensor.ClearField("shape")


def fresh_feeds(
    model: onnx.ModelProto, *, batch_size: int, seed: int = 0, input_shape: tuple[int, ...] | None = None
) -> dict[str, Array]:
    """Random inputs; open axes have the size of the batch, or that of ``input_shape`` behind the first.

    Raises:
        GraphError: an input has a type that cannot be drawn.
    """
    random = np.random.default_rng(seed)
    return {value.name: _draw(random, value, batch_size, input_shape) for value in graph_inputs(model.graph)}


def fixed_batch_size(graph: onnx.GraphProto) -> int | None:
    """The batch size that the first input fixes; None where that of any input is open."""
    dims = [found for value in graph_inputs(graph) if (found := value.type.tensor_type.shape.dim)]
    if not dims or any(not found[0].HasField("dim_value") for found in dims):
        return None
    return int(dims[0][0].dim_value)


def graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are no initialisers (old files list both)."""
    known = protos.constants(graph)
    return [value for value in graph.input if value.name not in known]


def _draw(
    random: np.random.Generator,
    value: onnx.ValueInfoProto,
    batch_size: int,
    input_shape: tuple[int, ...] | None,
) -> Array:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise GraphError(
            f"input {value.name} is no tensor, so no test input can be drawn",
            "export the model with tensors as inputs",
        )
    dims = tensor.shape.dim
    rest = input_shape if input_shape is not None and len(input_shape) == len(dims) - 1 else None
    sizes = [batch_size, *(rest or [batch_size] * (len(dims) - 1))]
    shape = [d.dim_value if d.HasField("dim_value") else size for d, size in zip(dims, sizes, strict=False)]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(shape, np.float32).astype(dtype)
    if np.issubdtype(dtype, np.integer) or dtype == np.bool_:
        return random.integers(0, 2, shape).astype(dtype)
    raise GraphError(
        f"input {value.name} has the type {dtype}, for which no test input can be drawn",
        "export the model with inputs of numbers",
    )
