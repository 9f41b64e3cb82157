"""Bundles: groups that save something only when they go together.

The convolution groups of a grouped convolution keep equal widths: one filter less in one of them saves
nothing. A bundle takes the cheapest filter of each, in every grouped convolution that the same filters meet;
or a whole convolution group, where that is one channel or filter wide.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslcli.graph.groups import GroupSet
from sslcli.graph.readers import Reader, readers
from sslcli.graph.slots import Structure
from sslcli.surgery.candidates import in_turn

Bundle = tuple[tuple[int, int], ...]  # (number of the set, number of the group), each

_STRUCTURES = ("filter", "channel")  # those whose groups are whole units


class Bundler:
    """Finds the bundles of a network.

    Args:
        structure: of the network; None: every group goes by itself.
        sets: the group sets.
        free: whether the groups of each set may go; None: all may.
    """

    def __init__(
        self, structure: Structure | None, sets: Sequence[GroupSet], free: Sequence[bool] | None = None
    ) -> None:
        self.sets, self.free = list(sets), list(free or [True] * len(sets))
        self._sides: list[_Side] = []
        if structure is not None and structure.grouped:
            layers = readers(structure)
            for name in _STRUCTURES:
                numbers = [n for n, s in enumerate(sets) if self.free[n] and s.structure == name]
                side = _Side(structure, layers, {n: _units(structure, layers, sets[n]) for n in numbers})
                if side.bundled:
                    self._sides.append(side)

    def bundles(self, price: Sequence[Tensor], gone: Sequence[Tensor]) -> list[Bundle]:
        """All groups that may go, each in one bundle; those that nothing else must go with are alone in it.

        Args:
            price: of each group by set, at least 0; the cheapest of every convolution group go together.
            gone: bool by set, groups that are on their way out; what is left of their bundle comes first.
        """
        found: list[Bundle] = []
        taken = [torch.zeros(group_set.count, dtype=torch.bool) for group_set in self.sets]
        for side in self._sides:
            found += side.bundles(price, gone)
        for bundle in found:
            for number, group in bundle:
                taken[number][group] = True
        for number, (mask, free) in enumerate(zip(taken, self.free, strict=True)):
            alone = torch.nonzero(~mask).reshape(-1).tolist() if free else []
            found += [((number, group),) for group in alone]
        return found


class _Side:
    """The sets of one structure, filters or channels, whose groups are units.

    Args:
        structure: of the network.
        layers: its readers.
        units: the unit that each group is, by the number of its set; -1 for none.
    """

    def __init__(self, structure: Structure, layers: Sequence[Reader], units: dict[int, Tensor]) -> None:
        self.structure, self.layers, self.units = structure, layers, units
        count = structure.units.count
        self._owner, self._place = torch.full((count,), -1), torch.full((count,), -1)
        for number, own in units.items():
            known = own >= 0
            self._owner[own[known]] = number
            self._place[own[known]] = torch.nonzero(known).reshape(-1)
        self._grouped = torch.zeros(count, dtype=torch.bool)
        for convolution in structure.grouped:
            for array in (convolution.inputs, convolution.outputs):
                self._grouped[structure.units.find(array.reshape(-1))] = True
        self.bundled = bool((self._grouped & (self._owner >= 0)).any())
        self._blocked = structure.units.all_pinned() | (self._owner < 0)

    def bundles(self, price: Sequence[Tensor], gone: Sequence[Tensor]) -> list[Bundle]:
        """The bundles around grouped convolutions, the cheapest first."""
        scores = torch.full((self.structure.units.count,), torch.nan, dtype=torch.float64)
        for number, units in self.units.items():
            known = units >= 0
            value = torch.where(gone[number], -1.0, price[number].cpu().double())
            scores[units[known]] = value[known]
        found = []
        for units in in_turn(self.structure, self.layers, scores, self._blocked):
            if bool(self._grouped[units].any()):
                pairs = zip(self._owner[units].tolist(), self._place[units].tolist(), strict=True)
                found.append(tuple(pairs))
        return found


def _units(structure: Structure, layers: Sequence[Reader], group_set: GroupSet) -> Tensor:
    """The unit that each group of a set is, (count,); -1 for none."""
    known: dict[str, Tensor] = {}
    for layer in layers:
        if group_set.structure == "channel":
            known.setdefault(layer.name, layer.columns)
        else:
            scaled = layer.scale is not None and layer.kind != "conv_transpose"
            known.setdefault(str(layer.scale) if scaled else layer.name, layer.rows)
    found = torch.full((group_set.count,), -1)
    for view in group_set.views:
        units = known[view.name]
        index = torch.arange(group_set.count) if view.index is None else view.index.reshape(-1)
        there = (index >= 0) & (units >= 0)
        found[index[there]] = structure.units.find(units[there])
    return found


def with_bundles(gone: Sequence[Tensor], bundles: Sequence[Bundle]) -> list[Tensor]:
    """Masks of what is ``gone``, bool (count,) a set, with the groups of ``bundles`` besides."""
    marked = [mask.clone() for mask in gone]
    for bundle in bundles:
        for number, group in bundle:
            marked[number][group] = True
    return marked
