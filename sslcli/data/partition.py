"""Cutting one part off a labelled set, the same part on every machine and for every seed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sslcli.data.randomness import epoch_order
from sslcli.errors import DataError

ValidationFrom = Literal["train", "test"]
Parts = dict[str, tuple[str, Tensor]]

LARGEST_VALIDATION = 5000


def validation_count(samples: int) -> int:
    """How many samples the validation split takes: a tenth of the training set, at most 5,000."""
    return min(samples // 10, LARGEST_VALIDATION)


def divide(
    train: Tensor | None, test: Tensor | None, validation_from: ValidationFrom | None, whose: str
) -> Parts:
    """Make three splits of the two that a data set without validation split has.

    Args:
        train: class numbers of the training set, int64 of shape (N,); None where there is none.
        test: likewise of the test set.
        validation_from: ``train`` (the default) cuts a tenth off the training set, at most 5,000 samples;
            ``test`` takes half of the test set, for a model that has learned the whole training set.
        whose: name of the data set, for the error.

    Returns:
        For each split its source (``train`` or ``test``) and the indices there.

    Raises:
        DataError: validation is to come from a test set that is not there or has one sample.
    """
    parts: Parts = {}
    if validation_from == "test":
        if test is None or len(test) < 2:
            raise DataError(
                f"the data set {whose} has no test split that validation could come from",
                "use --validation-from train",
            )
        rest, part = cut(test, len(test) // 2)
        parts = {"validation": ("test", part), "test": ("test", rest)}
        if train is not None:
            parts["train"] = ("train", torch.arange(len(train)))
        return parts
    if train is not None:
        rest, part = cut(train, validation_count(len(train)))
        parts = {"train": ("train", rest)} | ({"validation": ("train", part)} if len(part) else {})
    if test is not None:
        parts["test"] = ("test", torch.arange(len(test)))
    return parts


def own_validation(whose: str) -> DataError:
    """What is wrong where a data set with a validation split is to take validation from elsewhere."""
    return DataError(f"the data set {whose} has a validation split of its own", "leave --validation-from out")


def cut(targets: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cut ``count`` samples off, in each class its share.

    The choice does not depend on the run's seed: two steps of one chain with different seeds must not
    see each other's validation samples in training.

    Args:
        targets: int64 class numbers of shape (N,).
        count: samples to cut off, at most N.

    Returns:
        Indices of the rest and of the part cut off, both ascending int64.
    """
    order = epoch_order(len(targets), 0, 0)
    by_class = order[torch.argsort(targets[order], stable=True)]
    sizes = torch.bincount(targets) if len(targets) else torch.zeros(0, dtype=torch.long)
    starts = torch.cumsum(sizes, 0) - sizes
    rank = torch.arange(len(targets)) - starts[targets[by_class]]
    chosen = by_class[rank < shares(sizes, count)[targets[by_class]]]
    part = torch.zeros(len(targets), dtype=torch.bool)
    part[chosen] = True
    return torch.nonzero(~part).flatten(), torch.nonzero(part).flatten()


def shares(sizes: Tensor, count: int) -> Tensor:
    """Split ``count`` in proportion to ``sizes``, in whole numbers, by largest remainder."""
    total = int(sizes.sum())
    if total == 0:
        return torch.zeros_like(sizes)
    whole = sizes * count // total
    remainder = sizes * count - whole * total
    extra = torch.argsort(remainder, descending=True, stable=True)[: count - int(whole.sum())]
    whole[extra] += 1
    return whole
