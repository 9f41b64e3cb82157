"""What a job reads: its model, its data, its device."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from sslcli.errors import DataError, DeviceError, UnknownShapeError, UsageError
from sslcli.options.common import DataOptions, ModelOptions, RunOptions
from sslcli.options.training import NEUTRAL
from sslcli.pipeline.request import Request

if TYPE_CHECKING:
    import torch

    from sslcli.checkpoint import Checkpoint, Record
    from sslcli.checkpoint.record import InputSpec
    from sslcli.data import DataSource


# Options that a result does not depend on, so that its bytes must not either.
_NEUTRAL = NEUTRAL | {"data_root", "device", "workers"}


def is_onnx(source: str) -> bool:
    """Whether a model is named as an ONNX file."""
    return source.endswith(".onnx")


def load_model(
    source: str,
    options: ModelOptions,
    seed: int,
    data: DataOptions | None = None,
    probe: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Load a saved model with the options of the command line.

    Args:
        source: as named on the command line.
        options: how it is read.
        seed: of a fresh model.
        data: a sample of it tells what the model takes where neither file nor architecture does.
        probe: of a plan for the model; tells it likewise.

    Raises:
        ModelError: the file is missing, damaged or not what it is said to be.
    """
    try:
        return _load(source, options, seed)
    except UnknownShapeError:
        specs = _inputs_of_probe(probe) or (() if data is None else _inputs_of_samples(data, seed))
        if not specs:
            raise
        loaded = _load(source, options.model_copy(update={"input_shape": specs[0].shape}), seed)
        return _with_inputs(loaded, specs)


def warn_of(loaded: Checkpoint, source: str, options: ModelOptions) -> None:
    """Say what a model has lost on its way through a file; it matters to those who train it on."""
    for note in loaded.notes:
        if note == loaded.lost_class and options.arch is not None:
            continue  # told when it was loaded
        logging.getLogger(__name__).warning("%s: %s", source, note)


def _load(source: str, options: ModelOptions, seed: int) -> Checkpoint:
    from sslcli import checkpoint

    loaded = checkpoint.load(
        source,
        arch=options.arch,
        arch_args=options.arch_arg,
        input_shape=options.input_shape,
        trust_pickle=options.trust_pickle,
        seed=seed,
    )
    if options.arch is not None and loaded.lost_class is not None:
        logging.getLogger(__name__).warning("%s: %s", source, loaded.lost_class)
    return loaded


def _inputs_of_samples(options: DataOptions, seed: int) -> tuple[InputSpec, ...]:
    """Shape and kind of what a sample holds; nothing where no data set is named."""
    import torch

    from sslcli.checkpoint import Record
    from sslcli.checkpoint.examples import input_specs

    if options.data is None:
        return ()
    source = load_data(options, Record(), seed, None)
    split = source.train or source.validation or source.test
    if split is None:
        return ()
    inputs: Any = split.batch(torch.tensor([0]))[0]  # a factory's may be a tuple
    return input_specs(tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,))


def _inputs_of_probe(probe: Mapping[str, Any] | None) -> tuple[InputSpec, ...]:
    """Shape and kind of a probe's inputs; nothing where it does not hold them. It comes out of a file."""
    from sslcli.checkpoint.record import InputSpec

    adapter = TypeAdapter(InputSpec)
    try:
        entries = (probe or {}).get("inputs", ())
        given = [{"shape": entry["shape"][1:], "dtype": entry["dtype"]} for entry in entries]
        return tuple(adapter.validate_python(entry) for entry in given)
    except (TypeError, LookupError, ValueError):
        return ()


def _with_inputs(loaded: Checkpoint, specs: tuple[InputSpec, ...]) -> Checkpoint:
    from sslcli.checkpoint.examples import make_example

    record = dataclasses.replace(loaded.record, inputs=specs)
    return dataclasses.replace(loaded, record=record, example=make_example(specs))


def code_arch(options: ModelOptions) -> str | None:
    """The architecture if it is the user's code, which is not run unless it is named each time."""
    from sslcli import models

    arch = options.arch
    return arch if arch is not None and models.kind(arch) == "code" else None


def load_data(
    options: DataOptions, record: Record, seed: int, input_shape: tuple[int, ...] | None
) -> DataSource:
    """Load the data set that was named, or the built-in one or the folder that the model's record names.

    Validation comes from where ``--validation-from`` says, else from where the model's own did if it learned
    the same data: what chose the model must not be what tells its final error. Inputs are normalised as
    ``--mean`` and ``--std`` say; else as ``--normalize-from``'s record says; else as the model's own record
    says; else as is usual for the data set.

    Raises:
        UsageError: none is named.
        DataError: it cannot be read, or only the record names it and it is code.
    """
    from sslcli import data
    from sslcli.checkpoint.record import portable

    name = options.data or _recorded_data(record)
    if name is None:
        raise UsageError("no data set is named", "name it with --data")
    mean, std = normalization(options, record)
    same = record.data == portable(name)
    source = data.load_data(
        name,
        root=options.data_root,
        mean=mean,
        std=std,
        seed=seed,
        augment=options.augment,
        input_shape=input_shape,
        workers=options.workers,
        validation_from=options.validation_from or (record.validation_from if same else None),
    )
    if name.startswith("imagefolder:"):
        _warn_of_assumptions(source, shape=input_shape is None, values=mean is None)
    return source


def _recorded_data(record: Record) -> str | None:
    """The data set that a record names; a factory is the user's code, which no file may have run.

    Raises:
        DataError: the record names a factory.
    """
    name = record.data
    if name is None or ":" not in name or name.startswith("imagefolder:"):
        return name
    raise DataError(
        f"the model's record names {name} as its data, which is code and not run unasked",
        f"give --data {name} to run it",
    )


def _warn_of_assumptions(source: DataSource, *, shape: bool, values: bool) -> None:
    """Say what nobody said of the images of a folder: a model that saw them otherwise answers at random."""
    from sslcli.data.source import listed

    sizes = "x".join(str(size) for size in source.input_shape)
    norm = source.normalization
    assumed = [f"are resized to {sizes}; --input-shape says otherwise"] if shape else []
    if values and norm is not None:
        said = f"--mean {listed(norm.mean)} --std {listed(norm.std)}"
        assumed.append(f"are normalised by {said}; give those of the model's training")
    for what in assumed:
        logging.getLogger(__name__).warning("the images of %s %s", source.name, what)


def normalization(
    options: DataOptions, record: Record
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation per channel; None where the data set's own are meant."""
    if options.mean is not None or options.std is not None:
        return options.mean, options.std
    if options.normalize_from is not None:
        other = load_model(options.normalize_from, ModelOptions.model_validate({}), 0).record
        if other.mean is None:
            raise DataError(
                f"{options.normalize_from} records no normalisation", "give --mean and --std instead"
            )
        return other.mean, other.std
    return record.mean, record.std


def input_shape_of(checkpoint: Checkpoint) -> tuple[int, ...] | None:
    """Shape of the first input without the batch axis."""
    return tuple(checkpoint.example[0].shape[1:]) if checkpoint.example else None


def with_data(record: Record, source: DataSource) -> Record:
    """The record of a model that has seen ``source``."""
    norm = source.normalization
    return dataclasses.replace(
        record,
        data=source.name,
        classes=source.classes,
        validation_from="test" if source.validation_from == "test" else None,
        mean=None if norm is None else norm.mean,
        std=None if norm is None else norm.std,
    )


def warn_of_chance(metrics: Mapping[str, float], source: DataSource, name: str) -> None:
    """A checkpoint that guesses has most likely been trained on inputs of another scale or size."""
    accuracy, classes = metrics.get("accuracy"), len(source.classes)
    if accuracy is not None and classes > 1 and accuracy <= 1.1 / classes:
        logging.getLogger(__name__).warning(
            "%s is no better than chance on %s (%.2f %% of %d classes): check --mean, --std, --input-shape "
            "and the order of the classes",
            *(name, source.name, 100 * accuracy, classes),
        )


def choose_device(options: RunOptions) -> torch.device:
    """``auto`` is CUDA where there is one.

    Raises:
        DeviceError: CUDA was asked for and is not there.
        UsageError: no such device.
    """
    import torch

    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"  # torchrun's processes have a device each
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"there is no device '{name}'", "use cpu, cuda, cuda:N or auto") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"sslcli does not know the device '{name}'", "use cpu, cuda, cuda:N or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"there is no device {name} here", "see `sslcli doctor`, or use --device cpu")
    return device


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Use ``count`` threads for a while."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def parents(request: Request) -> list[Path]:
    """The files that a job read, for the record of what it makes."""
    return [Path(request.source)] if Path(request.source).is_file() else []


def stated(request: Request) -> dict[str, object]:
    """The options that are not the defaults, for the record of what the job makes."""
    chosen = request.settings
    values: dict[str, object] = {}
    for group in (chosen.step, chosen.model, chosen.data, chosen.run):
        values |= group.model_dump(mode="json", exclude_defaults=True)
    return {name: value for name, value in values.items() if name not in _NEUTRAL}
