"""Data sets of the user's own: ``package.module:factory`` and ``file.py:factory``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslcli.data.partition import ValidationFrom, divide, own_validation
from sslcli.data.samples import Sample, SampleSplit, check_targets, sample_randomness
from sslcli.data.source import DataSource, Normalization
from sslcli.errors import DataError, SslcliError, kind_of
from sslcli.reference import describe, import_path, made_by, resolve

SPLITS = ("train", "validation", "test")


def load_factory(
    reference: str,
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    seed: int,
    workers: int,
    validation_from: ValidationFrom | None = None,
) -> DataSource:
    """Call a factory and wrap what it returns. This runs the user's code.

    The factory returns ``(train, validation)`` or ``(train, validation, test)``, a mapping with these
    names, or a :class:`DataSource`. A split is a map-style data set (``len`` and ``dataset[i]`` giving
    (input, target)); validation and test may be None. It is called with ``seed=`` if it takes one.

    Raises:
        DataError: the code cannot be found, fails, or returns something else.
    """
    with import_path(reference):
        factory = resolve(reference, DataError)
        made = _call(reference, factory, seed)
    if isinstance(made, DataSource):
        if validation_from is not None:
            raise own_validation(reference)
        return made
    datasets = _datasets(reference, made)
    normalization = _normalization(mean, std)
    classes = _class_names(datasets)
    splits = {
        name: _split(reference, name, dataset, normalization, classes, workers)
        for name, dataset in _with_validation(datasets, validation_from, reference).items()
    }
    first = splits["train"] or splits["validation"] or splits["test"]
    if first is None:
        raise DataError(f"the factory {reference} returned no data set", "return (train, validation, test)")
    shape = _input_shape(first)
    return DataSource(
        name=reference,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        normalization=normalization,
        input_shape=shape,
        classes=classes,
        augmentation="the data set's own",
        validation_from=None if datasets["validation"] is not None else validation_from or "train",
    )


class UserSamples:
    """A user's map-style data set, or some of its samples."""

    def __init__(self, dataset: Any, indices: Tensor | None = None) -> None:
        self.dataset = dataset
        self.indices = indices

    def __len__(self) -> int:
        return len(self.dataset) if self.indices is None else len(self.indices)

    def sample(self, index: int, *, seed: int, epoch: int) -> Sample:
        """Sample ``index`` with the global generators seeded for it."""
        number = index if self.indices is None else int(self.indices[index])
        with sample_randomness(number, seed, epoch):
            try:
                made = self.dataset[number]
            except SslcliError:
                raise
            except Exception as error:  # the user's code may raise anything
                raise DataError(
                    f"reading sample {number} of {type(self.dataset).__name__} failed ({describe(error)})",
                    "index the data set in python to see where",
                ) from error
        if not isinstance(made, tuple | list) or len(made) != 2:
            raise DataError(
                f"sample {number} of {type(self.dataset).__name__} is {kind_of(made)}",
                "return (input, target)",
            )
        return made[0], made[1]


def _call(reference: str, factory: Any, seed: int) -> Any:
    if not callable(factory):
        raise DataError(f"{reference} is {kind_of(factory)}, not a factory", "name a function")

    def call() -> Any:
        takes_seed = "seed" in inspect.signature(factory).parameters
        return factory(seed=seed) if takes_seed else factory()

    return made_by(call, reference, DataError)


def _datasets(reference: str, made: Any) -> dict[str, Any]:
    if isinstance(made, Mapping) and made and set(made) <= set(SPLITS):
        datasets = {name: made.get(name) for name in SPLITS}
    elif isinstance(made, tuple | list) and len(made) in (2, 3):
        datasets = dict(zip(SPLITS, (*made, None), strict=False))
    else:
        raise DataError(
            f"the factory {reference} returned {kind_of(made)}",
            "return (train, validation) or (train, validation, test)",
        )
    for name, dataset in datasets.items():
        if dataset is None:
            continue
        if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
            raise DataError(
                f"the {name} data set of {reference} is {kind_of(dataset)}",
                "return a map-style data set, with len() and indexing",
            )
        if len(dataset) == 0:
            raise DataError(f"the {name} data set of {reference} is empty", "return None where there is none")
    return datasets


def _with_validation(
    datasets: dict[str, Any], validation_from: ValidationFrom | None, reference: str
) -> dict[str, UserSamples | None]:
    samples = {name: None if data is None else UserSamples(data) for name, data in datasets.items()}
    if datasets["validation"] is not None:
        if validation_from is not None:
            raise own_validation(reference)
        return samples
    train, test = (None if datasets[name] is None else _targets(datasets[name]) for name in ("train", "test"))
    if train is not None or validation_from is not None:
        parts = divide(train, test, validation_from, reference)
        samples |= {name: UserSamples(datasets[whole], part) for name, (whole, part) in parts.items()}
    return samples


def _targets(dataset: Any) -> Tensor:
    """The class of every sample if the data set lists them (torchvision's ``targets``), else one class."""
    listed = getattr(dataset, "targets", None)
    if listed is not None and len(listed) == len(dataset):
        targets = torch.as_tensor(np.asarray(listed))
        if targets.dim() == 1 and not targets.is_floating_point() and int(targets.min()) >= 0:
            return targets.long()
    return torch.zeros(len(dataset), dtype=torch.long)


def _split(
    reference: str,
    name: str,
    samples: UserSamples | None,
    normalization: Normalization | None,
    classes: tuple[str, ...],
    workers: int,
) -> SampleSplit | None:
    if samples is None:
        return None
    listed = getattr(samples.dataset, "targets", None)
    if isinstance(listed, Tensor):
        check_targets(listed, len(classes) or None, f"{reference} ({name})")
    collate: Callable[[list[Sample]], tuple[Tensor, Tensor]] | None = getattr(
        samples.dataset, "collate_fn", None
    )
    return SampleSplit(
        samples,
        name=f"{reference} ({name})",
        normalization=normalization,
        classes=len(classes) or None,
        collate=collate,
        workers=workers,
    )


def _class_names(datasets: Mapping[str, Any]) -> tuple[str, ...]:
    for dataset in datasets.values():
        names = getattr(dataset, "classes", None)
        if isinstance(names, tuple | list) and names:
            return tuple(str(name) for name in names)
    return ()


def _normalization(mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalization | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise DataError("only one of mean and standard deviation is given", "give both --mean and --std")
    return Normalization(tuple(mean), tuple(std))


def _input_shape(split: SampleSplit) -> tuple[int, ...]:
    inputs, _ = split.batch(torch.tensor([0]))
    return tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else ()
