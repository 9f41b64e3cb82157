"""Group sets bound to the parameters of one model: norms in, factors out, no loop over groups."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sslcli.errors import InputError
from sslcli.graph.groups import GroupSet, GroupView

# Elements of one piece of a matrix when columns are summed by several threads.
_PIECE_ELEMENTS = 1 << 19

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


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
    return norms_of([bound])[0]


@torch.no_grad()
def norms_of(sets: Sequence[BoundSet]) -> list[Tensor]:
    """``group_norms`` of several sets, for less than one after another."""
    parts = iter(_view_norms([view for bound in sets for view in bound.views]))
    norms = []
    for bound in sets:
        own = [next(parts) for _ in bound.views]
        if len(own) == 1 and bound.views[0].buckets is None:
            norms.append(own[0])
            continue
        squares = own[0].new_zeros(bound.group_set.count + 1)
        for view, part in zip(bound.views, own, strict=True):
            _add_per_group(squares, view, part.square())
        norms.append(squares[:-1].sqrt())
    return norms


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
        shape = [size if axis in view.dims else 1 for axis, size in enumerate(view.values.shape)]
        pairs.append((view.values, factors.view(shape).to(view.values.dtype)))
    return pairs


def _add_per_group(totals: Tensor, view: BoundView, part: Tensor) -> None:
    if view.buckets is None:
        totals[:-1] += part
    else:
        totals.index_add_(0, view.buckets, part.to(totals.dtype))


def _view_norms(views: Sequence[BoundView]) -> list[Tensor]:
    """Each view's norms over the axes that do not select, flat in row-major order of those that do."""
    norms: list[Tensor | None] = []
    crossing: list[tuple[int, Tensor, tuple[int, ...], list[int]]] = []
    for position, view in enumerate(views):
        values = view.values
        if values.dtype in (torch.float16, torch.bfloat16):
            values = values.float()
        selecting, reduced = _split_axes(values, view.dims)
        if not reduced:
            norms.append(values.abs().reshape(-1))
        elif not selecting:
            norms.append(_norm(values.reshape(1, -1)))
        elif max(selecting) < min(reduced):
            rows = math.prod(values.shape[axis] for axis in selecting)
            norms.append(_norm(values.reshape(rows, -1)))
        else:
            norms.append(None)
            leading = min(selecting)
            matrix = values.reshape(math.prod(values.shape[:leading]), -1)
            trailing = [axis - leading for axis in reduced if axis > leading]
            crossing.append((position, matrix, tuple(values.shape[leading:]), trailing))
    summed = _column_squares([matrix for _, matrix, _, _ in crossing])
    for (position, _, shape, trailing), squares in zip(crossing, summed, strict=True):
        squares = squares.reshape(shape)
        norms[position] = (squares.sum(trailing) if trailing else squares).reshape(-1).sqrt_()
    return [part for part in norms if part is not None]


def _norm(matrix: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(matrix, dim=1)
    return norms


def _column_squares(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Sums of squares down the rows of each matrix, read once.

    On the CPU ``vector_norm(dim=0)`` is not vectorised and squares of a whole matrix leave the cache; NumPy's
    einsum runs down the rows at the speed of the memory. It knows one thread, so large matrices are cut
    and the pieces shared out. The cuts do not depend on the number of threads, so neither do the sums.
    """
    if any(matrix.is_cuda for matrix in matrices):
        return [_norm(matrix.t()).square_() for matrix in matrices]
    pieces = [torch.split(matrix, max(1, _PIECE_ELEMENTS // matrix.shape[1])) for matrix in matrices]
    flat = [piece.numpy() for parts in pieces for piece in parts]
    threads = min(torch.get_num_threads(), len(flat), sum(array.size for array in flat) // _PIECE_ELEMENTS)
    if threads < 2:
        sums = iter([_squares_down(array) for array in flat])
    else:
        with ThreadPoolExecutor(threads - 1) as pool:
            sums = _shared_out(pool, flat, threads)
    totals = []
    for parts in pieces:
        total = next(sums)
        for _ in parts[1:]:
            total += next(sums)
        totals.append(torch.from_numpy(total))
    return totals


def _shared_out(pool: ThreadPoolExecutor, arrays: list[_Array], threads: int) -> Iterator[_Array]:
    """``_squares_down`` of every array, every thread (this one too) taking the next array that is left."""
    results: list[_Array | None] = [None] * len(arrays)
    # Largest first, so that no thread is left with a large one at the end.
    order = iter(sorted(range(len(arrays)), key=lambda position: -arrays[position].size))

    def work() -> None:
        for position in order:
            results[position] = _squares_down(arrays[position])

    others = [pool.submit(work) for _ in range(threads - 1)]
    work()
    for other in others:
        other.result()
    return iter([result for result in results if result is not None])


def _squares_down(array: _Array) -> _Array:
    sums: _Array = np.einsum("ij,ij->j", array, array)
    return sums


def _any_nonzero(view: BoundView) -> Tensor:
    nonzero = view.values != 0
    _, reduced = _split_axes(view.values, view.dims)
    return (nonzero.any(reduced) if reduced else nonzero).reshape(-1)


def _split_axes(values: Tensor, dims: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Axes that select and axes that are reduced; axes of size one count as neither."""
    wide = [axis for axis in range(values.dim()) if values.shape[axis] > 1]
    return [axis for axis in wide if axis in dims], [axis for axis in wide if axis not in dims]
