"""Group sets bound to the parameters of one model: norms in, factors out, no loop over groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sslcli.errors import InputError
from sslcli.graph.groups import GroupSet, GroupView


@dataclass(frozen=True)
class BoundView:
    """A parameter as its groups see it.

    Args:
        values: the parameter's own memory in the view's shape, detached.
        dims: axes of ``values`` that select the group.
        buckets: int64 (product of the selecting axes,), the group of each position, ``count`` for
            positions in no group; None where positions and groups are the same.
    """

    values: Tensor
    dims: tuple[int, ...]
    buckets: Tensor | None

    # A step of training asks for these again and again, with nothing of them in the cache.

    @cached_property
    def factor_shape(self) -> list[int]:
        """The shape in which one factor per position broadcasts to ``values``."""
        return [size if axis in self.dims else 1 for axis, size in enumerate(self.values.shape)]

    @cached_property
    def axes(self) -> tuple[list[int], list[int]]:
        """Axes that select and axes that are reduced; axes of size one count as neither."""
        wide = [axis for axis in range(self.values.dim()) if self.values.shape[axis] > 1]
        return [axis for axis in wide if axis in self.dims], [axis for axis in wide if axis not in self.dims]

    @cached_property
    def rows(self) -> int | None:
        """How many rows of a matrix are selected; None where other axes than the leading ones select."""
        selecting, reduced = self.axes
        if selecting and reduced and max(selecting) > min(reduced):
            return None
        return math.prod(self.values.shape[axis] for axis in selecting)


@dataclass(frozen=True)
class BoundSet:
    """A group set and its views on one model's parameters."""

    group_set: GroupSet
    views: tuple[BoundView, ...]


def bind(parameters: Mapping[str, Tensor], group_set: GroupSet) -> BoundSet:
    """Bind ``group_set`` to ``parameters``, sharing their memory.

    Raises:
        InputError: a parameter is missing, has another size, or is not stored contiguously.
    """
    return BoundSet(group_set, tuple(_bind_view(parameters, group_set, view) for view in group_set.views))


def _bind_view(parameters: Mapping[str, Tensor], group_set: GroupSet, view: GroupView) -> BoundView:
    if view.name not in parameters:
        raise InputError(
            f"{group_set.structure} groups of {group_set.label} need the parameter {view.name}, "
            "which the model does not have",
            "find the groups on the model that is trained",
        )
    parameter = parameters[view.name].detach()
    if parameter.numel() != math.prod(view.shape):
        raise InputError(
            f"parameter {view.name} of shape {tuple(parameter.shape)} cannot be viewed as {view.shape}",
            "find the groups on the model that is trained",
        )
    if not parameter.is_contiguous():
        raise InputError(
            f"parameter {view.name} is not stored contiguously",
            "convert the model with .to(memory_format=torch.contiguous_format)",
        )
    return BoundView(parameter.view(view.shape), view.dims, _buckets(view, group_set.count, parameter.device))


def _buckets(view: GroupView, count: int, device: torch.device) -> Tensor | None:
    positions = math.prod(view.shape[axis] for axis in view.dims)
    if view.index is None:
        return None if positions == count else torch.arange(positions, device=device)
    index = view.index.reshape(-1).to(device)
    return torch.where(index < 0, count, index)


@torch.no_grad()
def group_norms(bound: BoundSet) -> Tensor:
    """The l2 norm of every group.

    Shape:
        (count,), in the parameters' dtype, at least float32.
    """
    parts = [_view_norms(view) for view in bound.views]
    if len(parts) == 1 and bound.views[0].buckets is None:
        return parts[0]
    squares = parts[0].new_zeros(bound.group_set.count + 1)
    for view, part in zip(bound.views, parts, strict=True):
        _add_per_group(squares, view, part.square())
    return squares[:-1].sqrt()


@torch.no_grad()
def summed_norms(bound: BoundSet) -> Tensor:
    """The l2 norms that every group has in each of its views, added up.

    Shape:
        (count,), in the parameters' dtype, at least float32.
    """
    parts = [group_norms(BoundSet(bound.group_set, (view,))) for view in bound.views]
    return torch.stack(parts).sum(0)


@torch.no_grad()
def group_zeros(bound: BoundSet) -> Tensor:
    """Which groups hold nothing but zeros.

    Shape:
        bool (count,).
    """
    live = torch.zeros(bound.group_set.count + 1, device=bound.views[0].values.device)
    for view in bound.views:
        _add_per_group(live, view, _any_nonzero(view).to(live.dtype))
    return live[:-1] == 0


def spread(bound: BoundSet, per_group: Tensor, outside: float) -> list[tuple[Tensor, Tensor]]:
    """Pair each view's memory with one factor per position, broadcastable to it.

    Args:
        bound: the set.
        per_group: (count,), one factor per group.
        outside: the factor of positions in no group.
    """
    pairs = []
    padded: Tensor | None = None
    for view in bound.views:
        if view.buckets is None:
            factors = per_group
        else:
            if padded is None:
                padded = torch.cat([per_group, per_group.new_full((1,), outside)])
            factors = padded[view.buckets]
        pairs.append((view.values, factors.view(view.factor_shape).to(view.values.dtype)))
    return pairs


def _add_per_group(totals: Tensor, view: BoundView, part: Tensor) -> None:
    if view.buckets is None:
        totals[:-1] += part
    else:
        totals.index_add_(0, view.buckets, part.to(totals.dtype))


def _view_norms(view: BoundView) -> Tensor:
    """Norms over the axes that do not select, flat in row-major order of those that do."""
    values = view.values
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    selecting, reduced = view.axes
    if not reduced:
        return values.abs().reshape(-1)
    if view.rows is not None:
        return _norm(values.reshape(view.rows, -1))
    leading = min(selecting)
    squares = _column_squares(values.reshape(math.prod(values.shape[:leading]), -1))
    trailing = [axis - leading for axis in reduced if axis > leading]
    if trailing:
        squares = squares.reshape(values.shape[leading:]).sum(trailing).reshape(-1)
    return squares.sqrt_()


def _norm(matrix: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(matrix, dim=1)
    return norms


def _column_squares(matrix: Tensor) -> Tensor:
    """Sums of squares down the rows of a matrix, read once and without a copy of its size.

    ``vector_norm(dim=0)`` is not vectorised on the CPU. The gradient of layer norm's scale is: it sums
    ``dy * (x - mean) * rstd`` down the rows, here with x and dy the matrix, mean 0 and rstd 1; the scale
    itself is not used.
    """
    rows, columns = matrix.shape
    if rows == 1:
        return matrix[0].square()
    if matrix.is_cuda:
        return _norm(matrix.t()).square_()
    mean, rstd = matrix.new_zeros(rows, 1), matrix.new_ones(rows, 1)
    _, squares, _ = torch.ops.aten.native_layer_norm_backward(
        matrix, matrix, [columns], mean, rstd, matrix[0], None, [False, True, False]
    )
    return squares  # type: ignore[no-any-return]


def _any_nonzero(view: BoundView) -> Tensor:
    nonzero = view.values != 0
    _, reduced = view.axes
    return (nonzero.any(reduced) if reduced else nonzero).reshape(-1)
