"""Groups: which elements of which parameters live and die together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class GroupView:
    """One parameter's part in a group set.

    Args:
        name: the parameter, as in ``named_parameters()``.
        shape: what the parameter is viewed as (a reshape without a copy).
        dims: the axes of ``shape`` that select the group, increasing; the others are reduced.
        index: int64, shape ``[shape[d] for d in dims]``, the group number or -1 for no group;
            None: groups are numbered in row-major order of ``dims``.
    """

    name: str
    shape: tuple[int, ...]
    dims: tuple[int, ...]
    index: Tensor | None = None


@dataclass(frozen=True)
class GroupSet:
    """Groups 0..count-1 of one structure at one place of the network; they share no element.

    Args:
        structure: filter, channel, shape, filter2d, depth, head or hidden.
        label: the layers it spans, for tables and globs.
        count: number of groups.
        sizes: int64 (count,), elements per group.
        views: the parameters that the groups lie in.
    """

    structure: str
    label: str
    count: int
    sizes: Tensor
    views: tuple[GroupView, ...]
