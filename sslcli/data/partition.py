"""Cutting one part off a labelled set, the same part on every machine and for every seed."""

from __future__ import annotations

import torch
from torch import Tensor

from sslcli.data.randomness import epoch_order

LARGEST_VALIDATION = 5000


def validation_count(samples: int) -> int:
    """How many samples the validation split takes: a tenth of the training set, at most 5,000."""
    return min(samples // 10, LARGEST_VALIDATION)


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
