"""Slots through contractions: every product of two tensors, written as labelled axes as einsum does.

A contracted axis ends the units on both sides (they must keep the same places, so they are united or linked),
the free axes of either side and the common batch axes go on to the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sslcli.graph.facets import Facets, covers, tidy, varying
from sslcli.graph.units import Units


@dataclass(frozen=True)
class Link:
    """Rows of several unit arrays, each int64 (n, m_j), that are kept together: row i of all or of none."""

    arrays: tuple[Tensor, ...]


@dataclass(frozen=True)
class Side:
    """One operand of a contraction: its facets, shape and a label for each axis."""

    facets: Facets
    shape: Sequence[int]
    labels: str

    def on(self, label: str) -> Facets:
        """The facets that vary along the axis ``label``."""
        if label not in self.labels:
            return []
        return [facet for facet in self.facets if facet.shape[self.labels.index(label)] > 1]

    def size(self, label: str) -> int:
        """The size of the axis ``label``."""
        return int(self.shape[self.labels.index(label)])


def contract(units: Units, links: list[Link], a: Side, b: Side, out: str, reason: str) -> Facets:
    """Facets of ``einsum(a.labels, b.labels -> out)``.

    Args:
        units: the union-find.
        links: constraints found on the way are appended here.
        a: left operand.
        b: right operand.
        out: labels of the result.
        reason: why units are pinned whose counterpart has none.
    """
    for label in dict.fromkeys(a.labels + b.labels):
        in_a, in_b = label in a.labels, label in b.labels
        if in_a and in_b and a.size(label) == b.size(label) > 1:
            _couple(units, links, a, b, label, reason)
        elif label not in out:
            for facet in a.on(label) + b.on(label):
                units.pin(facet, reason)
    ended = {label for label in a.labels + b.labels if label not in out}
    result: Facets = []
    for side in (a, b):
        for facet in side.facets:
            passed = _pass_on(units, links, facet, side.labels, ended, out)
            if passed is not None:
                result.append(passed)
    return _without_doubles(tidy(units, result))


def rows_by(facet: Tensor, axes: Sequence[int]) -> Tensor:
    """A facet as (n, m): n places along ``axes``, m units at each."""
    rest = [axis for axis in range(facet.dim()) if axis not in axes]
    count = 1
    for axis in axes:
        count *= facet.shape[axis]
    return facet.permute(*axes, *rest).reshape(count, -1)


def _couple(units: Units, links: list[Link], a: Side, b: Side, label: str, reason: str) -> None:
    left, right = a.on(label), b.on(label)
    if not left or not right:
        for facet in left + right:
            units.pin(facet, reason)
        return
    for f in left:
        for g in right:
            if _labels(f, a.labels) == _labels(g, b.labels):
                units.unite(_ordered(f, a.labels), _ordered(g, b.labels))
            else:
                first, second = rows_by(f, [a.labels.index(label)]), rows_by(g, [b.labels.index(label)])
                links.append(Link((first, second)))


def _labels(facet: Tensor, labels: str) -> set[str]:
    return {labels[axis] for axis in varying(facet)}


def _ordered(facet: Tensor, labels: str) -> Tensor:
    """The varying axes of a facet in alphabetical order of their labels."""
    axes = sorted(varying(facet), key=lambda axis: labels[axis])
    return facet.permute(*axes, *[axis for axis in range(facet.dim()) if axis not in axes]).reshape(
        [facet.shape[axis] for axis in axes]
    )


def _pass_on(
    units: Units, links: list[Link], facet: Tensor, labels: str, ended: set[str], out: str
) -> Tensor | None:
    axes = varying(facet)
    remaining = [axis for axis in axes if labels[axis] not in ended]
    if not remaining:
        return None
    shape = [1] * len(out)
    for axis in remaining:
        shape[out.index(labels[axis])] = facet.shape[axis]
    in_order = sorted(remaining, key=lambda axis: out.index(labels[axis]))
    if len(remaining) == len(axes):
        rest = [axis for axis in range(facet.dim()) if axis not in in_order]
        return facet.permute(*in_order, *rest).reshape(shape)
    rows = rows_by(facet, in_order)
    new = units.fresh(len(rows))
    links.append(Link((rows, new.reshape(-1, 1))))
    return new.reshape(shape)


def _without_doubles(facets: Facets) -> Facets:
    """Drop facets whose axes another, finer one covers: they are linked to it where they came from."""
    kept: Facets = []
    for facet in sorted(facets, key=lambda f: -len(varying(f))):
        if not all(covers(kept, axis) for axis in varying(facet)):
            kept.append(facet)
    return kept
