"""``sslcli.export``: a model in any saved form -> ONNX lowered for its target, or another saved form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from sslcli.bench.inputs import RunSettings
from sslcli.bench.statistics import Ratio
from sslcli.checkpoint import Record, load, save
from sslcli.errors import UsageError
from sslcli.files import check_writable, data_file
from sslcli.lowering import check, protos
from sslcli.lowering.check import Errors, Reference
from sslcli.lowering.files import read_onnx, require_own_data, write_onnx
from sslcli.lowering.from_torch import finish, set_record, translate
from sslcli.lowering.precision import convert, require_dtype
from sslcli.lowering.select import Decision, lower
from sslcli.options.export import OLDEST_OPSET, OPSET, ExportOptions

_SAVED_FORMS = (".pt2", ".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class Exported:
    """What ``export`` wrote.

    Attributes:
        path: the file.
        size_bytes: its size, external data included.
        choice: ``auto``, ``dense`` or the form asked for; ``none`` for formats that are not ONNX.
        decisions: what was chosen for each layer with structured zeros.
        speedup: of the whole model over its dense form, None where it was not timed.
        errors: of the written model against the given one, on fresh inputs.
    """

    path: Path
    size_bytes: int
    choice: str
    decisions: tuple[Decision, ...] = ()
    speedup: Ratio | None = None
    errors: Errors = Errors(0.0, 0.0)  # noqa: RUF009 - frozen


def export(
    what: nn.Module | str | Path | Any,
    path: str | Path,
    *,
    example: tuple[torch.Tensor, ...] | None = None,
    record: Record | None = None,
    options: ExportOptions | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> Exported:
    """Write a model as ONNX, lowered for its target; as ``.pt2`` or a state dict where ``path`` says so.

    Args:
        what: a module (with ``example``), anything with ``.model`` and ``.example`` such as the result of
            ``sslcli.prune`` or ``sslcli.load``, or the path of a saved model, ``.onnx`` among them.
        path: the output; its suffix chooses the format.
        example: inputs to trace with, the batch on axis 0; default: those that ``what`` carries.
        record: what is known about the model; default: what ``what`` carries.
        options: target, lowering, precision and operator set; default: one CPU thread at batch 1, measured.
        input_shape: sizes of the axes beside the batch, where the inputs of an ONNX file leave them open.

    Raises:
        UsageError: the formats do not go together, or the example is missing.
        GraphError: the model cannot be traced or has an operator without ONNX form.
        VerificationError: the outputs would differ; nothing is written.
        DeviceError: the target's provider is missing.
        OutputError: ``path`` cannot be written.
    """
    path, options = Path(path), options or ExportOptions.model_validate({})
    check_writable(path)
    suffix = path.suffix.lower()
    if suffix != ".onnx" and suffix not in _SAVED_FORMS:
        raise UsageError(
            f"no format is known for {path.name}", f"name a .onnx file, or one of {', '.join(_SAVED_FORMS)}"
        )
    if isinstance(what, str | Path):
        if Path(what).suffix.lower() == ".onnx":
            return _from_onnx(Path(what), path, record, options, input_shape)
        what = load(what)
    model, example, record = _parts(what, example, record)
    if suffix != ".onnx":
        save(what, path, example=example, record=record)
        return Exported(path, path.stat().st_size, "none")
    if example is None:
        raise UsageError("tracing a module for ONNX needs example inputs", "pass example=(tensor,)")
    proto, references = translate(model, example, options.opset or OPSET)
    check.require_references(proto, references, check.tolerance(proto))
    return _finish(proto, references, path, record, options)


def _from_onnx(
    source: Path,
    path: Path,
    record: Record | None,
    options: ExportOptions,
    input_shape: tuple[int, ...] | None,
) -> Exported:
    if path.suffix.lower() != ".onnx":
        raise UsageError(
            f"{source.name} cannot be written as {path.suffix}", "name a .onnx file as the output"
        )
    require_own_data(path, source)
    given = read_onnx(source)
    references = check.references_of(given, str(source), input_shape=input_shape)
    kept = None if protos.opset(given) >= OLDEST_OPSET else OPSET
    finished = finish(given, options.opset or kept)
    return _finish(finished, references, path, record, options, input_shape)


def _finish(
    proto: onnx.ModelProto,
    references: list[Reference],
    path: Path,
    record: Record | None,
    options: ExportOptions,
    input_shape: tuple[int, ...] | None = None,
) -> Exported:
    settings = RunSettings(
        provider=options.provider,
        threads=options.threads,
        batch_size=options.batch_size,
        budget_s=options.budget,
        input_shape=input_shape,
    )
    tolerance = check.tolerance(proto, options.dtype)
    require_dtype(proto, options.dtype, references[0].feeds)
    lowered = lower(proto, choice=options.lower, settings=settings, dtype=options.dtype, cache=options.cache)
    converted = convert(lowered.model, options.dtype)
    errors = check.require_references(converted, references, tolerance)
    set_record(converted, record)
    write_onnx(converted, path)
    data = data_file(path)
    size = path.stat().st_size + (data.stat().st_size if data.is_file() else 0)
    return Exported(path, size, options.lower, lowered.decisions, lowered.speedup, errors)


def _parts(
    what: Any, example: tuple[torch.Tensor, ...] | None, record: Record | None
) -> tuple[nn.Module, tuple[torch.Tensor, ...] | None, Record | None]:
    model = what if isinstance(what, nn.Module) else what.model
    carried = None if isinstance(what, nn.Module) else getattr(what, "example", None)
    example = example if example is not None else carried
    if isinstance(example, torch.Tensor):
        example = (example,)
    return model, example, record or getattr(what, "record", None)
