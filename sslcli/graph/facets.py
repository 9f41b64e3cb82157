"""Facets: which unit each element of a tensor belongs to.

A tensor has a list of facets. A facet is an int64 array that broadcasts to the tensor's shape: its size
along an axis is the tensor's, or 1 where the unit does not vary along that axis. An element is removed when
its unit in any facet is removed. A convolution's weight has a facet for its rows and one for its columns; an
activation usually has one facet along its channels; a fused qkv tensor (3, heads, width) has one joint facet.
An axis that no facet varies along is unstructured: it is never cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslcli.graph.units import Units

Facets = list[Tensor]


def varying(facet: Tensor) -> tuple[int, ...]:
    """The axes along which a facet has more than one entry."""
    return tuple(axis for axis, size in enumerate(facet.shape) if size > 1)


def compress(array: Tensor) -> Tensor:
    """Reduce to size 1 every axis along which all slices are equal."""
    for axis in range(array.dim()):
        if array.shape[axis] > 1:
            first = array.narrow(axis, 0, 1)
            if torch.equal(array, first.expand_as(array)):
                array = first
    return array


def axis_array(units: Tensor, axis: int, rank: int) -> Tensor:
    """View a vector of units as a facet along one axis of a tensor of ``rank`` axes."""
    shape = [1] * rank
    shape[axis] = len(units)
    return units.reshape(shape)


def covers(facets: Facets, axis: int) -> bool:
    """Whether some facet varies along ``axis``."""
    return any(facet.shape[axis] > 1 for facet in facets)


def tidy(units: Units, facets: Facets) -> Facets:
    """Replace units by their representatives, compress, and drop doubled facets.

    A facet that varies along no axis stays: the whole tensor is of that unit.
    """
    kept: Facets = []
    for facet in facets:
        small = compress(units.find(facet))
        if not any(torch.equal(small, other) for other in kept):
            kept.append(small)
    return kept


def mix(units: Units, facets: Facets, axes: Sequence[int]) -> Facets:
    """Unite units along ``axes``: what lies along them is removed together or not at all."""
    for facet in facets:
        for axis in axes:
            if facet.shape[axis] > 1:
                units.unite(facet, facet.narrow(axis, 0, 1))
    return tidy(units, facets)


def pin_axes(units: Units, facets: Facets, axes: Sequence[int], reason: str) -> Facets:
    """Pin the units of every facet that varies along one of ``axes``; return the facets that do not."""
    free: Facets = []
    for facet in facets:
        if any(facet.shape[axis] > 1 for axis in axes):
            units.pin(facet, reason)
        free.append(facet)
    return free


def combine(units: Units, operands: Sequence[tuple[Facets, Sequence[int]]], rank: int, reason: str) -> Facets:
    """Facets of an element-wise result: operands must keep the same elements wherever both have an axis.

    Args:
        units: the union-find.
        operands: facets and shape of each tensor operand, broadcast on the left as torch does.
        rank: rank of the result.
        reason: why units are pinned that another operand has no unit for.
    """
    result: Facets = []
    aligned = [
        ([_lift(facet, rank) for facet in facets], [1] * (rank - len(shape)) + list(shape))
        for facets, shape in operands
    ]
    for facets, _ in aligned:
        before = list(result)
        for facet in facets:
            _join(units, before, result, facet)
    result = tidy(units, result)
    for facet in result:
        for axis in varying(facet):
            for facets, shape in aligned:
                if shape[axis] > 1 and not covers(facets, axis):
                    units.pin(facet, reason)
    return result


def _lift(facet: Tensor, rank: int) -> Tensor:
    return facet.reshape((1,) * (rank - facet.dim()) + tuple(facet.shape))


def _join(units: Units, before: Facets, result: Facets, facet: Tensor) -> None:
    axes = set(varying(facet))
    exact = [other for other in before if set(varying(other)) == axes]
    overlapping = [other for other in before if axes & set(varying(other))]
    for other in exact or overlapping:
        units.unite(facet, other)
    if not exact:
        result.append(facet)
