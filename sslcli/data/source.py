"""What a data set is: its splits, its normalisation, its classes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sslcli.data.augment import CropMirror
from sslcli.data.partition import ValidationFrom
from sslcli.errors import DataError


class Split(Protocol):
    """One part of a data set: samples by number."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, *, seed: int = 0, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """The samples ``indices`` as (inputs float32 normalised, targets), one row an index.

        Augmentation, where the split has any, depends on (seed, epoch, index) alone.
        """
        ...


@dataclass(frozen=True)
class Normalization:
    """Inputs are (value - mean) / std per channel, with values of images scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise DataError(
                f"the mean has {len(self.mean)} values and the standard deviation {len(self.std)}",
                "give one value per channel for each",
            )
        if (
            not all(math.isfinite(value) for value in (*self.mean, *self.std))
            or min(self.std, default=1) <= 0
        ):
            raise DataError(
                f"mean {listed(self.mean)} and std {listed(self.std)} do not normalise anything",
                "means must be finite, standard deviations positive",
            )

    def check_channels(self, channels: int, whose: str = "") -> None:
        """Raise DataError unless there is a value for every channel of inputs (those of ``whose``)."""
        if len(self.mean) != channels:
            of = f" of {whose}" if whose else ""
            raise DataError(
                f"the mean has {len(self.mean)} values but the inputs{of} have {channels} channels",
                f"give {channels} values for --mean and --std, or data that the model takes",
            )

    def columns(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation as float32 tensors of shape (C, 1, 1)."""
        return torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1)


@dataclass(frozen=True)
class DataSource:
    """A data set, ready to be read.

    ``normalization`` is None where the data set normalises its own samples (factories);
    ``classes`` is empty where the targets are not classes or their names are unknown;
    ``validation_from`` says of which set the validation split was cut off, None where it is the data's own.
    """

    name: str
    train: Split | None
    validation: Split | None
    test: Split | None
    normalization: Normalization | None
    input_shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    augmentation: str = "none"
    validation_from: ValidationFrom | None = None

    def split(self, name: str) -> Split:
        """The split called ``name`` (train, validation or test); DataError where there is none."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        found = splits.get(name)
        if found is None:
            there = ", ".join(key for key, value in splits.items() if value is not None)
            raise DataError(f"the data set {self.name} has no {name} split", f"it has {there or 'none'}")
        return found

    def describe(self) -> dict[str, object]:
        """The data set as JSON values, for records and reports."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "name": self.name,
            "samples": {name: None if split is None else len(split) for name, split in splits.items()},
            "normalization": None if self.normalization is None else dataclasses.asdict(self.normalization),
            "input_shape": list(self.input_shape),
            "classes": list(self.classes),
            "augmentation": self.augmentation,
            "validation_from": self.validation_from,
        }


class TensorSplit:
    """A split whose images stand in memory as bytes.

    Args:
        pixels: uint8 of shape (N, C, H, W).
        targets: int64 of shape (N,).
        normalization: one mean and standard deviation a channel, for values in [0, 1].
        augmentation: drawn anew every epoch; None for a split that is only evaluated.
    """

    def __init__(
        self,
        pixels: Tensor,
        targets: Tensor,
        normalization: Normalization,
        augmentation: CropMirror | None = None,
    ) -> None:
        self.pixels = pixels
        self.targets = targets
        self.augmentation = augmentation
        mean, std = normalization.columns()
        self._scale = (1 / (255 * std)).to(pixels.device)
        self._shift = (mean / std).to(pixels.device)

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor, *, seed: int = 0, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """The images ``indices`` as float32 (B, C, H, W), and their classes, on the pixels' device."""
        indices = indices.to(self.pixels.device)
        pixels = self.pixels.index_select(0, indices)
        if self.augmentation is not None:
            pixels = self.augmentation.apply(pixels, indices, seed=seed, epoch=epoch)
        inputs = pixels.to(torch.float32).mul_(self._scale).sub_(self._shift)
        return inputs, self.targets.index_select(0, indices)


def choose_normalization(
    default: Normalization, mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> Normalization:
    """The user's mean and standard deviation where given, checked against the channels; else the default."""
    if mean is None and std is None:
        chosen = default
    elif mean is None or std is None:
        raise DataError("only one of mean and standard deviation is given", "give both --mean and --std")
    else:
        chosen = Normalization(tuple(float(value) for value in mean), tuple(float(value) for value in std))
    chosen.check_channels(channels)
    return chosen


def listed(values: Sequence[float]) -> str:
    """A mean or a standard deviation as ``--mean`` and ``--std`` take it."""
    return ",".join(f"{value:g}" for value in values)
