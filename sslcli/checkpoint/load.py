"""Saved models in: every way of naming one that the command line has."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sslcli import models
from sslcli.checkpoint.examples import batch_of_two, make_example
from sslcli.checkpoint.match import check_finite
from sslcli.checkpoint.pt2 import Pt2, read_pt2
from sslcli.checkpoint.rebuild import check_recorded, may_rebuild, with_tensors
from sslcli.checkpoint.record import InputSpec, Record
from sslcli.checkpoint.sniff import sniff
from sslcli.checkpoint.states import States, read_pickle, read_safetensors
from sslcli.errors import LayersGoneError, ModelError, PlanError, UnknownShapeError
from sslcli.graph.module import TracedModule
from sslcli.graph.trace import trace

FRESH = "arch:"
_GRAPH = "the graph itself is used"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model. Unpacks as `model, example`.

    Attributes:
        model: on the CPU, in eval mode, sharing storage with nothing.
        example: one tensor per input, batch 2.
        record: what is known about it.
        path: the file it was read from; None for a fresh one.
        notes: sentences a user should see, such as why the class could not be rebuilt.
        lost_class: of these the one about the class; None where the model is its class, or has none.
    """

    model: nn.Module
    example: tuple[Tensor, ...]
    record: Record
    path: Path | None = None
    notes: tuple[str, ...] = ()
    lost_class: str | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.example))


def load(
    source: str | Path,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, object] | None = None,
    input_shape: Sequence[int] | None = None,
    trust_pickle: bool = False,
    seed: int = 0,
) -> Checkpoint:
    """Load a saved model.

    Args:
        source: a `.pt2`, `.safetensors`, `.pt`, `.pth`, `.th` or `.ckpt` file, or `arch:ARCH` (fresh).
        arch: architecture of a state dict, or the code reference a `.pt2` was made from.
        arch_args: arguments of the architecture; text is read as YAML scalars.
        input_shape: shape of one input without the batch axis, where nothing else tells it.
        trust_pickle: unpickle whole modules, which runs code from the file.
        seed: seed of a fresh model.

    Raises:
        ModelError: the file is missing, damaged or not what it is said to be.
    """
    shape = tuple(input_shape) if input_shape is not None else None
    typed = models.typed_args(arch_args or {})
    if str(source).startswith(FRESH):
        return _fresh(str(source).removeprefix(FRESH), typed, shape, seed)
    path = Path(source)
    if not path.exists() and (
        path.name in models.ARCHITECTURES or str(source).startswith(("torchvision:", "timm:"))
    ):
        raise ModelError(f"the saved model {source} does not exist", f"write {FRESH}{source} for a fresh one")
    match sniff(path):
        case "pt2":
            return _from_pt2(path, arch, typed, shape)
        case "safetensors":
            return _from_states(read_safetensors(path), path, arch, typed, shape)
        case "pickle":
            return _from_states(read_pickle(path, trust_pickle), path, arch, typed, shape)
        case _:
            raise ModelError(
                f"{path} is an ONNX model, which cannot be trained or pruned",
                "export, bench, inspect and evaluate take ONNX; the others need the .pt2 it was made from",
            )


def _fresh(arch: str, arch_args: dict[str, object], shape: tuple[int, ...] | None, seed: int) -> Checkpoint:
    model = models.build(arch, arch_args, seed)
    record = Record(arch=arch, arch_args=arch_args, inputs=_inputs(arch, shape, f"{FRESH}{arch}"))
    return _checkpoint(model, record, None)


def _from_states(
    states: States, path: Path, arch: str | None, arch_args: dict[str, object], shape: tuple[int, ...] | None
) -> Checkpoint:
    record = states.record or Record()
    if states.module is not None:
        return _from_module(states.module, record, path, arch, shape)
    if arch is None and record.arch is None:
        raise ModelError(f"{path} holds weights but not their architecture", "name it with --arch")
    if arch is None and not may_rebuild(record):
        raise ModelError(
            f"{path} was made from {record.arch}, which is code and not run unasked",
            f"give --arch {record.arch}",
        )
    arch, model, arch_args = _class(record, arch, arch_args, states.tensors, path)
    record = dataclasses.replace(
        record,
        arch=arch,
        arch_args=arch_args,
        inputs=_shaped(record.inputs, shape) or _inputs(arch, shape, str(path)),
    )
    return _checkpoint(model, record, path)


def _from_module(
    module: nn.Module, record: Record, path: Path, arch: str | None, shape: tuple[int, ...] | None
) -> Checkpoint:
    model = copy.deepcopy(module).cpu()
    check_finite(model.state_dict(), str(path))
    return _checkpoint(model, dataclasses.replace(record, inputs=_inputs(arch, shape, str(path))), path)


def _from_pt2(
    path: Path, arch: str | None, arch_args: dict[str, object], shape: tuple[int, ...] | None
) -> Checkpoint:
    archive = read_pt2(path)
    inputs = _shaped(archive.record.inputs or archive.inputs(), shape)
    record = dataclasses.replace(archive.record, inputs=inputs)
    check_finite(archive.tensors, str(path))
    notes: tuple[str, ...] = ()
    lost: str | None = None
    model: nn.Module | None = None
    if arch is not None or may_rebuild(record):
        try:
            name, model, arguments = _class(record, arch, arch_args, archive.tensors, path)
            record = dataclasses.replace(record, arch=name, arch_args=arguments)
        except (ModelError, PlanError) as error:
            if arch is not None and not isinstance(error, LayersGoneError):
                raise
            lost = f"{_GRAPH}, since {arch or record.arch} could not be rebuilt ({error.what})"
            notes = (lost,)
    elif record.arch is not None:
        notes = (f"{_GRAPH}, since code is not run unasked; for its class give --arch {record.arch}",)
    if model is None:
        program = trace(archive.exported())
        model, notes = TracedModule(program), tuple(dict.fromkeys((*notes, *record.notes, *program.notes)))
    return Checkpoint(model.eval(), _example(archive, record, shape), record, path, notes, lost)


def _example(archive: Pt2, record: Record, shape: tuple[int, ...] | None) -> tuple[Tensor, ...]:
    """The samples in the archive, whose values are valid for any model, or random ones."""
    args, kwargs = archive.samples or ((), {})
    if shape is None and args and not kwargs and all(isinstance(x, Tensor) and x.dim() for x in args):
        return batch_of_two(args) if archive.has_dynamic_batch() else args
    return make_example(record.inputs)


def _class(
    record: Record,
    arch: str | None,
    arch_args: dict[str, object],
    tensors: Mapping[str, Tensor],
    path: Path,
) -> tuple[str, nn.Module, dict[str, object]]:
    """The model's own class with the tensors in it; the caller's arch must not contradict the record's."""
    name = arch or record.arch
    assert name is not None
    kinds = {models.kind(known) for known in (name, record.arch) if known is not None}
    if record.arch is not None and name != record.arch and "code" not in kinds:
        raise ModelError(f"{path} was made from {record.arch}, not from {name}", "leave out --arch")
    check_recorded(name, record, tensors, str(path))
    arguments = {**record.arch_args, **arch_args}
    model = with_tensors(models.build(name, arguments), record, tensors, str(path))
    return name, model, arguments


def _inputs(arch: str | None, shape: tuple[int, ...] | None, where: str) -> tuple[InputSpec, ...]:
    shape = shape or (models.input_shape(arch) if arch else None)
    if shape is None:
        raise UnknownShapeError(
            f"the shape of the inputs of {where} is not known",
            "give it without the batch, as --input-shape 3,224,224",
        )
    return (InputSpec(shape),)


def _shaped(inputs: tuple[InputSpec, ...], shape: tuple[int, ...] | None) -> tuple[InputSpec, ...]:
    return inputs if shape is None else (InputSpec(shape),)


def _checkpoint(model: nn.Module, record: Record, path: Path | None) -> Checkpoint:
    return Checkpoint(model.eval(), make_example(record.inputs), record, path)
