"""Saved models out: `.pt2`, `.safetensors` and `.pt`, read back and compared before they stand."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

import sslcli
from sslcli.checkpoint.archive import Archive
from sslcli.checkpoint.examples import input_specs
from sslcli.checkpoint.load import load
from sslcli.checkpoint.match import check_finite
from sslcli.checkpoint.outputs import max_relative_difference, run_in_eval
from sslcli.checkpoint.pt2 import RECORD_FILE, vet
from sslcli.checkpoint.record import METADATA_KEY, Record
from sslcli.checkpoint.states import read_pickle, read_safetensors
from sslcli.errors import GraphError, ModelError, UsageError, VerificationError
from sslcli.files import atomic_output, write_errors
from sslcli.graph.module import TracedModule
from sslcli.graph.program import Program
from sslcli.graph.trace import trace
from sslcli.plan import Plan

SUFFIXES = frozenset({".pt2", ".safetensors", ".pt", ".pth"})  # of the files that can be written

TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2, torch.float64: 1e-10}  # relative; else 1e-5

_REMEDY = "nothing was written; check the disk, and that the model computes the same twice"


@runtime_checkable
class HasModel(Protocol):
    """A result that carries a model; `example`, `plan` and `record` are used where it has them."""

    @property
    def model(self) -> nn.Module:
        """The module to save."""


def save(
    what: nn.Module | HasModel,
    path: str | Path,
    *,
    example: Sequence[Tensor] | None = None,
    record: Record | None = None,
) -> Path:
    """Save a model; the format follows the suffix of ``path``.

    Args:
        what: a module, or a result with a `.model` (and `.example`, `.plan`, `.record` where it has them).
        path: `.pt2` (exported program in eval form, dynamic batch), `.safetensors` or `.pt` (state dict).
        example: inputs to trace with; needed for a module and `.pt2`.
        record: what is known about the model; of a result, about the model that it was made from: the
            result's plan is added to the record's own.

    Returns:
        The path written.

    Raises:
        VerificationError: the file does not give the model's outputs; nothing is written.
        OutputError: the file cannot be written.
        UsageError: the suffix is not one of these, or the example is missing.
    """
    path = Path(path)
    model = what if isinstance(what, nn.Module) else what.model
    example = _example(what, example)
    record = completed(what, example, record)
    check_finite(model.state_dict(), "the model")
    match path.suffix.lower():
        case ".pt2":
            _save_pt2(model, path, example, record)
        case ".safetensors":
            _save_safetensors(model, path, record)
        case ".pt" | ".pth":
            _save_state(model, path)
        case _:
            require_format(path)
    return path


def require_format(path: Path) -> None:
    """Refuse a path whose suffix is that of no saved model.

    Raises:
        UsageError: there is no way to write such a file.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"no format is known for {path.name} (suffix {path.suffix or 'none'})",
            "name a .pt2, .safetensors or .pt file",
        )


def completed(what: Any, example: Sequence[Tensor] | None, record: Record | None) -> Record:
    """The record to write: the caller's or the result's own, with plan and inputs filled in."""
    known = record or getattr(what, "record", None) or Record()
    plan: Plan | None = getattr(what, "plan", None)
    if plan is not None:
        whole = plan if known.plan is None else Plan.from_json(known.plan).then(plan)
        known = dataclasses.replace(known, plan=whole.to_json())
    if example:
        known = dataclasses.replace(known, inputs=input_specs(example))
    return dataclasses.replace(known, sslcli=sslcli.__version__)


def write_program(program: Program, path: Path, record: Record) -> None:
    """Write a program as `.pt2`, clean of guards, stack traces and the machine's paths.

    Raises:
        GraphError: the program holds something that would not be loaded again.
    """
    buffer = BytesIO()
    torch.export.save(program.exported, buffer, extra_files={RECORD_FILE: record.to_json()})
    try:
        content = vet(Archive(buffer.getvalue(), "the traced model")).clean()
    except ModelError as error:
        raise GraphError(error.what, "save its weights as .safetensors, or change that part") from error
    path.write_bytes(content)


def _example(what: object, example: Sequence[Tensor] | None) -> tuple[Tensor, ...] | None:
    given = example if example is not None else getattr(what, "example", None)
    if given is None:
        return None
    return (given,) if isinstance(given, Tensor) else tuple(given)


def _save_pt2(model: nn.Module, path: Path, example: tuple[Tensor, ...] | None, record: Record) -> None:
    if example is None:
        raise UsageError(
            f"saving {path.name} needs example inputs to trace the model", "pass example=(tensor,)"
        )
    if any(tensor.device.type != "cpu" for tensor in model.state_dict().values()):
        model = copy.deepcopy(model).cpu()
    example = tuple(tensor.detach().cpu() for tensor in example)
    program = trace(model, example)
    lost = (*record.notes, *program.notes) if isinstance(model, TracedModule) else program.notes
    record = dataclasses.replace(record, tied=_groups(program.tied), notes=_lines(lost))
    expected = run_in_eval(model, example)
    with atomic_output(path) as temporary:
        write_program(program, temporary, record)
        if isinstance(model, TracedModule) and not _loads_alike(expected, example, temporary):
            # The graph has been changed in a way that its class does not follow.
            write_program(program, temporary, dataclasses.replace(record, arch=None, arch_args={}, plan=None))
        _verify_program(expected, example, temporary, path)


def _verify_program(expected: list[Tensor], example: tuple[Tensor, ...], written: Path, path: Path) -> None:
    """The file's graph, and what `load` makes of it, must give the outputs of the model."""
    graph = torch.export.load(str(written)).module()
    _compare(expected, run_in_eval(graph, example), f"the graph in {path}")
    _compare(expected, run_in_eval(load(written).model, example), f"the model loaded from {path}")


def _lines(notes: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(" ".join(note.split())[:1000] for note in notes))


def _loads_alike(expected: list[Tensor], example: tuple[Tensor, ...], written: Path) -> bool:
    return _agree(expected, run_in_eval(load(written).model, example))


def _compare(expected: list[Tensor], got: list[Tensor], what: str) -> None:
    if not _agree(expected, got):
        if any(bool(tensor.isnan().any()) for tensor in expected):
            raise VerificationError(
                "the model's own outputs for its example are NaN, so no file can be checked against them",
                "nothing was written; the training diverged: lower --lr or the strengths",
            )
        difference = max_relative_difference(expected, got)
        raise VerificationError(
            f"{what} gives other outputs than the model (relative difference {difference:.2g})",
            _REMEDY,
        )


def _agree(expected: list[Tensor], got: list[Tensor]) -> bool:
    limit = max((TOLERANCE.get(tensor.dtype, 1e-5) for tensor in expected), default=1e-5)
    return max_relative_difference(expected, got) <= limit


def _save_safetensors(model: nn.Module, path: Path, record: Record) -> None:
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in _untied(model).items()}
    tied = _groups(tied_names(model))
    # One entry only: the library writes several in random order, and equal models shall give equal bytes.
    metadata = {METADATA_KEY: dataclasses.replace(record, tied=tied).to_json()}
    with atomic_output(path) as temporary:
        with write_errors(temporary, SafetensorError):
            save_file(tensors, temporary, metadata=metadata)
        _verify_tensors(tensors, read_safetensors(temporary).tensors, path)


def _save_state(model: nn.Module, path: Path) -> None:
    tensors = {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}
    buffer = BytesIO()  # a path would put its name into the bytes
    torch.save(tensors, buffer)
    with atomic_output(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
        _verify_tensors(tensors, read_pickle(temporary, trust_pickle=False).tensors, path)


def _verify_tensors(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], path: Path) -> None:
    if expected.keys() != got.keys() or not all(torch.equal(expected[name], got[name]) for name in expected):
        raise VerificationError(
            f"{path} does not read back as it was written", "check the disk; nothing was written"
        )


def tied_names(model: nn.Module) -> dict[str, str]:
    """Other names of the same parameter or buffer -> its first name."""
    first: dict[int, str] = {}
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: first[id(t)] for name, t in tensors if first.setdefault(id(t), name) != name}


def _untied(model: nn.Module) -> dict[str, Tensor]:
    aliases = tied_names(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in aliases}


def _groups(aliases: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    groups: dict[str, list[str]] = {}
    for alias, name in aliases.items():
        groups.setdefault(name, [name]).append(alias)
    return tuple(tuple(group) for group in groups.values())
