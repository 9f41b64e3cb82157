"""Candidates: sets of units that can go together, the least that every constraint allows.

A filter is a candidate by itself. Units in joint facets (attention heads and widths) go by hyperplanes, units
of grouped convolutions one from every group, by rank; each set is grown until nothing that must stay together
is torn apart, and dropped if that reaches a unit that must stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sslcli.graph.groups import matches
from sslcli.graph.readers import Reader
from sslcli.graph.slots import Structure

_LARGEST = 4096


@dataclass(frozen=True)
class Candidate:
    """Units that go together, and the mean importance of those that have one."""

    units: Tensor
    score: float


def importance(
    structure: Structure,
    layers: Sequence[Reader],
    weights: Mapping[str, Tensor],
    scores: Mapping[str, Tensor] | None,
) -> Tensor:
    """Per unit: the norm of what writes and reads it, relative to the mean of each layer; NaN without any.

    Args:
        structure: the network.
        layers: its readers.
        weights: parameters by name.
        scores: importance of every element by parameter; default: the element squared.
    """
    total = torch.zeros(structure.units.count, dtype=torch.float64)
    number = torch.zeros(structure.units.count, dtype=torch.float64)
    for layer in layers:
        value = (
            scores[layer.name]
            if scores is not None and layer.name in scores
            else weights[layer.name].square()
        )
        value = value.detach().double().cpu()
        for units, mass in _masses(layer, value):
            known = units >= 0
            if not bool(known.any()):
                continue
            norm = mass.clamp(min=0).sqrt()
            norm = norm / norm.mean().clamp(min=1e-30)
            roots = structure.units.find(units[known])
            total.index_add_(0, roots, norm[known])
            number.index_add_(0, roots, torch.ones_like(norm[known]))
    return total / number


def _masses(layer: Reader, value: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The summed importance of each row and of each column of a layer's weight, with their units."""
    flat = value.reshape(value.shape[0], value.shape[1], -1)
    if layer.kind == "conv_transpose":
        rows = flat.reshape(layer.groups, -1, *flat.shape[1:]).sum((1, 3)).reshape(-1)
        yield layer.rows, rows
        yield layer.columns, flat.sum((1, 2))
        return
    yield layer.rows, flat.sum((1, 2))
    if not layer.depthwise:
        yield layer.columns, flat.reshape(layer.groups, -1, *flat.shape[1:]).sum((1, 3)).reshape(-1)


def candidates(
    structure: Structure, layers: Sequence[Reader], scores: Tensor, keep: Sequence[str]
) -> list[Candidate]:
    """Every set that can go, by increasing score.

    Args:
        structure: the network.
        layers: its readers.
        scores: from ``importance``.
        keep: globs of layers that lose no filter.
    """
    growth = _Growth(structure, scores, _blocked(structure, layers, keep))
    found = _alone(structure, layers, growth)
    grown: dict[bytes, Candidate] = {}
    tried: set[bytes] = set()
    covered = torch.zeros(structure.units.count, dtype=torch.int64)  # by the last family that grew over it
    for family, seed in _seeds(structure, layers, growth):
        key = seed.numpy().tobytes()
        if key in tried or bool((covered[seed] == family).all()):
            continue  # hyperplanes along one axis that grow into each other are one candidate
        tried.add(key)
        units = growth.grow(seed)
        if units is None:
            continue
        covered[units] = family
        own = scores[units]
        own = own[~own.isnan()]
        if len(own):
            grown.setdefault(units.numpy().tobytes(), Candidate(units, float(own.mean())))
    return sorted([*found, *grown.values()], key=lambda candidate: candidate.score)


def in_turn(
    structure: Structure, layers: Sequence[Reader], scores: Tensor, keep: Sequence[str]
) -> Iterator[Tensor]:
    """Units that can go one set after the other, by increasing score: none is in two sets.

    Candidates may share units, as where grouped convolutions of different widths meet; each set here is the
    least that every constraint allows once those before it have gone.

    Args:
        structure: the network.
        layers: its readers.
        scores: from ``importance``.
        keep: globs of layers that lose no filter.
    """
    growth = _Growth(structure, scores, _blocked(structure, layers, keep))
    gone = torch.zeros(structure.units.count, dtype=torch.bool)
    for candidate in candidates(structure, layers, scores, keep):
        units: Tensor | None = candidate.units[~gone[candidate.units]]
        if units is not None and 0 < len(units) < len(candidate.units):
            units = growth.grow(units, gone)
        if units is not None and len(units):
            gone[units] = True
            yield units


def _alone(structure: Structure, layers: Sequence[Reader], growth: _Growth) -> list[Candidate]:
    """The filters that nothing else has to go with."""
    empty = torch.zeros(0, dtype=torch.int64)
    rows = torch.unique(torch.cat([empty, *(layer.rows[layer.rows >= 0] for layer in layers)]))
    units = torch.unique(structure.units.find(rows)) if len(rows) else rows
    units = units[~growth.blocked[units] & ~growth.touched[units] & ~growth.scores[units].isnan()]
    return [Candidate(units[i : i + 1], float(growth.scores[units[i]])) for i in range(len(units))]


def _blocked(structure: Structure, layers: Sequence[Reader], keep: Sequence[str]) -> Tensor:
    blocked = structure.units.all_pinned()
    for layer in layers:
        if any(matches(layer.layer, glob) for glob in keep):
            blocked[structure.units.find(layer.rows[layer.rows >= 0])] = True
    return blocked


def _seeds(structure: Structure, layers: Sequence[Reader], growth: _Growth) -> Iterator[tuple[int, Tensor]]:
    """Sets to grow from, with the number of the family (one axis of one facet) that each is of."""
    family = 0
    for array in structure.rigid:
        for axis in range(array.dim()):
            family += 1
            for place in range(array.shape[axis]):
                yield family, torch.unique(array.select(axis, place))
    bundled = torch.zeros(structure.units.count, dtype=torch.bool)
    for inputs, outputs in growth.grouped:
        for array in (inputs, outputs):
            bundled[array] = True
            order = growth.scores[array].nan_to_num(0.0).argsort(1)
            ranked = array.gather(1, order)
            family += 1
            for rank in range(array.shape[1]):
                yield family, torch.unique(ranked[:, rank])
    for layer in layers:
        rows = torch.unique(structure.units.find(layer.rows[layer.rows >= 0]))
        free = growth.touched[rows] & ~growth.joint[rows] & ~bundled[rows] & ~growth.blocked[rows]
        chosen, family = rows[free], family + 1
        yield from ((family, chosen[i : i + 1]) for i in range(len(chosen)))


class _Growth:
    """Grows sets of units until no constraint is torn."""

    def __init__(self, structure: Structure, scores: Tensor, blocked: Tensor) -> None:
        self.scores, self.blocked = scores, blocked
        self.rigid = structure.rigid
        self.links = [link.arrays for link in structure.links]
        find = structure.units.find
        self.grouped = [(find(g.inputs), find(g.outputs)) for g in structure.grouped]
        self.joint = torch.zeros(structure.units.count, dtype=torch.bool)
        for array in self.rigid:
            self.joint[array] = True
        self.touching: dict[int, set[tuple[str, int]]] = {}
        for kind, several in (
            ("rigid", [(array,) for array in self.rigid]),
            ("link", self.links),
            ("grouped", self.grouped),
        ):
            for number, arrays in enumerate(several):
                for unit in torch.unique(torch.cat([array.reshape(-1) for array in arrays])).tolist():
                    self.touching.setdefault(unit, set()).add((kind, number))
        self.touched = torch.zeros(structure.units.count, dtype=torch.bool)
        self.touched[list(self.touching)] = True
        self._chosen = torch.zeros(structure.units.count, dtype=torch.bool)

    def grow(self, seed: Tensor, gone: Tensor | None = None) -> Tensor | None:
        """The least closed set around ``seed``, where ``gone`` (bool by unit) have gone; without those.

        None if it reaches a unit that must stay.
        """
        if bool(self.blocked[seed].any()):
            return None
        chosen = self._chosen if gone is None else gone.clone()
        chosen[seed] = True
        members, queue = set(seed.tolist()), list(seed.tolist())
        try:
            return self._closed(members, queue, chosen)
        finally:
            chosen[list(members)] = False

    def _closed(self, members: set[int], queue: list[int], chosen: Tensor) -> Tensor | None:
        while queue:
            work = {key for unit in queue for key in self.touching.get(unit, ())}
            queue = []
            for kind, number in work:
                for unit in self._missing(kind, number, chosen):
                    if unit not in members:
                        members.add(unit)
                        queue.append(unit)
                        chosen[unit] = True
            if len(members) > _LARGEST:
                return None
        units = torch.tensor(sorted(members))
        return None if bool(self.blocked[units].any()) or self._empties(units, chosen) else units

    def _missing(self, kind: str, number: int, chosen: Tensor) -> list[int]:
        if kind == "rigid":
            return _hyperplanes(self.rigid[number], chosen)
        if kind == "link":
            return _rows(self.links[number], chosen)
        return [unit for array in self.grouped[number] for unit in self._balanced(array, chosen)]

    def _balanced(self, array: Tensor, chosen: Tensor) -> list[int]:
        taken = chosen[array].sum(1)
        most = int(taken.max())
        missing = []
        for group in torch.nonzero(taken < most).reshape(-1).tolist():
            free = array[group][~chosen[array[group]]]
            order = self.scores[free].nan_to_num(0.0).argsort()
            missing += free[order[: most - int(taken[group])]].tolist()
        return missing

    def _empties(self, units: Tensor, chosen: Tensor) -> bool:
        """Whether a set leaves nothing of some joint facet or link."""
        keys = {key for unit in units.tolist() for key in self.touching.get(unit, ())}
        for kind, number in keys:
            arrays = (
                (self.rigid[number],) if kind == "rigid" else self.links[number] if kind == "link" else ()
            )
            if any(bool(chosen[array].all()) for array in arrays):
                return True
        return False


def _hyperplanes(array: Tensor, chosen: Tensor) -> list[int]:
    """What is missing so that the chosen places of a joint facet are whole hyperplanes."""
    hit = chosen[array]
    if not bool(hit.any()) or bool(hit.all()):
        return []
    complete = torch.zeros_like(hit)
    options = []
    for axis in range(array.dim()):
        others = [a for a in range(array.dim()) if a != axis]
        full, touched = hit, hit
        for other in others:
            full, touched = full.all(other, keepdim=True), touched.any(other, keepdim=True)
        complete = complete | full
        options.append(touched.expand_as(hit))
    if bool((hit & ~complete).any()):
        cover = min(options, key=lambda option: int(option.sum()))
        missing: list[int] = torch.unique(array[cover & ~hit]).tolist()
        return missing
    return []


def _rows(arrays: tuple[Tensor, ...], chosen: Tensor) -> list[int]:
    """What is missing so that rows of linked arrays go together."""
    gone = [chosen[array].all(1) for array in arrays]
    rows = torch.stack(gone).any(0)
    missing: list[int] = []
    for array, own in zip(arrays, gone, strict=True):
        late = rows & ~own
        if bool(late.any()):
            missing += torch.unique(array[late]).tolist()
    return missing
