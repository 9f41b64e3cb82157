"""Setting groups to zero, and writing down which slices that were."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sslcli.graph.groups import GroupSet, GroupView

Blocks = list[dict[int, list[int]]]


@dataclass
class Zeroing:
    """Weights with slices set to zero (copies; the given ones are not touched), and the slices by name."""

    weights: dict[str, Tensor]
    slices: dict[str, dict[int, set[int]]] = field(default_factory=dict)
    blocks: dict[str, Blocks] = field(default_factory=dict)
    _owned: set[str] = field(default_factory=set)

    @staticmethod
    def of(weights: Mapping[str, Tensor]) -> Zeroing:
        """Start from weights as they are."""
        return Zeroing(dict(weights))

    def slice(self, name: str, axis: int, places: Tensor) -> None:
        """Set slices along one axis to zero."""
        if len(places):
            self._own(name).index_fill_(axis, places, 0.0)
            self.slices.setdefault(name, {}).setdefault(axis, set()).update(places.tolist())

    def block(self, name: str, block: dict[int, list[int]]) -> None:
        """Set the product of index lists to zero."""
        tensor = self._own(name)
        chosen = torch.ones((), dtype=torch.bool)
        for axis, size in enumerate(tensor.shape):
            along = torch.zeros(size, dtype=torch.bool)
            along[block[axis] if axis in block else slice(None)] = True
            chosen = chosen.unsqueeze(-1) & along
        tensor[chosen] = 0.0
        self.blocks.setdefault(name, []).append(block)

    def groups(self, found: GroupSet, chosen: Tensor) -> None:
        """Set the groups of a set for which ``chosen`` (bool, (count,)) holds to zero."""
        for view in found.views:
            index = view.index
            if index is None:
                index = torch.arange(found.count).reshape([view.shape[axis] for axis in view.dims])
            hit = (index >= 0) & chosen[index.clamp(min=0)]
            if bool(hit.any()):
                self._view(view, hit)

    def as_lists(self) -> dict[str, dict[int, list[int]]]:
        """``Plan.zeroed``."""
        return {n: {axis: sorted(places) for axis, places in axes.items()} for n, axes in self.slices.items()}

    def _own(self, name: str) -> Tensor:
        if name not in self._owned:
            self.weights[name] = self.weights[name].detach().clone()
            self._owned.add(name)
        return self.weights[name]

    def _view(self, view: GroupView, hit: Tensor) -> None:
        shape = tuple(self.weights[view.name].shape)
        if not view.dims:
            self.slice(view.name, 0, torch.arange(shape[0]))
        elif len(view.dims) == 1 and view.shape[view.dims[0]] == shape[view.dims[0]]:  # scales of norms: (N,)
            self.slice(view.name, view.dims[0], torch.nonzero(hit).reshape(-1))
        else:
            for block in _blocks(view, hit, shape):
                self.block(view.name, block)


def _blocks(view: GroupView, hit: Tensor, shape: tuple[int, ...]) -> Blocks:
    """Chosen groups of a view as products of indices into the parameter itself."""
    places = torch.nonzero(hit)
    if view.dims == (0, 1):  # kernels (n, c) of (N, C, taps)
        rows: dict[int, list[int]] = {}
        for row, column in places.tolist():
            rows.setdefault(row, []).append(column)
        return [{0: [row], 1: columns} for row, columns in rows.items()]
    groups, height, taps = view.shape[0], view.shape[1], math.prod(shape[2:])
    if len(view.shape) == 4 and groups * height == shape[0]:  # channels (G, N/G, C, taps) by group
        return [{0: list(range(g * height, (g + 1) * height)), 1: [c]} for g, c in places.tolist()]
    if len(view.shape) == 4:  # filters of a transposed convolution (G, C/G, N/G, taps)
        return [{0: list(range(g * height, (g + 1) * height)), 1: [n]} for g, n in places.tolist()]
    by_tap: dict[tuple[int, int], list[int]] = {}
    for group, column in places.tolist():
        by_tap.setdefault((group, column % taps), []).append(column // taps)
    blocks = []
    for (group, tap), channels in by_tap.items():
        block = {0: list(range(group * height, (group + 1) * height)), 1: channels}
        for axis in range(len(shape) - 1, 1, -1):
            block[axis] = [tap % shape[axis]]
            tap //= shape[axis]
        blocks.append(block)
    return blocks
