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
    found = [*_alone(structure, layers, growth), *_grown(structure, layers, growth)]
    return sorted(found, key=lambda candidate: candidate.score)


def _grown(structure: Structure, layers: Sequence[Reader], growth: _Growth) -> list[Candidate]:
    """The sets that constraints hold together."""
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
        own = growth.scores[units]
        own = own[~own.isnan()]
        if len(own):
            grown.setdefault(units.numpy().tobytes(), Candidate(units, float(own.mean())))
    return list(grown.values())


def in_turn(
    structure: Structure, layers: Sequence[Reader], scores: Tensor, blocked: Tensor
) -> Iterator[Tensor]:
    """Sets of units that constraints hold together and that can go one after the other; none share a unit.

    Candidates may share units, as where grouped convolutions of different widths meet. They are gone through
    by increasing score; of one that shares units with those before it, the others are grown to what every
    constraint allows once those have gone.

    Args:
        structure: the network.
        layers: its readers.
        scores: by unit; NaN without any.
        blocked: bool by unit, those that stay.
    """
    growth = _Growth(structure, scores, blocked)
    gone = torch.zeros(structure.units.count, dtype=torch.bool)
    for candidate in sorted(_grown(structure, layers, growth), key=lambda candidate: candidate.score):
        found: Tensor | None = candidate.units
        rest = candidate.units[~gone[candidate.units]]
        if len(rest) < len(candidate.units):
            found = growth.grow(rest, gone) if len(rest) else None
        if found is not None:
            gone[found] = True
            yield found


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
    for array in (array for pair in growth.grouped for array in pair):
        bundled[array] = True
    for seeds in _of_convolution_groups(growth):
        family += 1
        yield from ((family, seed) for seed in seeds)
    for layer in layers:
        rows = torch.unique(structure.units.find(layer.rows[layer.rows >= 0]))
        free = growth.touched[rows] & ~growth.joint[rows] & ~bundled[rows] & ~growth.blocked[rows]
        chosen, family = rows[free], family + 1
        yield from ((family, chosen[i : i + 1]) for i in range(len(chosen)))


def _of_convolution_groups(growth: _Growth) -> Iterator[list[Tensor]]:
    """Seeds that take as much from every convolution group, by side of a grouped convolution.

    1. Where the groups of a side are one unit wide, a whole convolution group is a seed.
    2. Where a shuffle crosses the groups of two convolutions of as many, a seed is even in both (matchings).
    3. Else it has one unit of every convolution group, by rank.
    """
    sides: dict[bytes, list[Tensor]] = {}
    for array in (array for pair in growth.grouped for array in pair):
        sides.setdefault(array.reshape(-1).sort().values.numpy().tobytes(), []).append(array)
    for arrays in sides.values():
        first = arrays[0]
        others = [other for other in arrays if other.shape == first.shape and _crosses(first, other)]
        if first.shape[1] > 1 and others:
            yield _matchings(first, others[0], growth)
            arrays = [array for array in arrays if array.shape != first.shape]
        for array in arrays:
            ranked = array.gather(1, growth.price(array).argsort(1))
            yield [torch.unique(seed) for seed in (ranked if array.shape[1] == 1 else ranked.T)]


def _crosses(first: Tensor, other: Tensor) -> bool:
    """Whether the rows of two arrays of the same units, each there once, are other sets of them."""
    same = torch.equal(other.sort(1).values, first.sort(1).values)
    return not same and len(torch.unique(first)) == first.numel()


def _matchings(first: Tensor, second: Tensor, growth: _Growth) -> list[Tensor]:
    """Sets with one unit of every row of ``first`` and of ``second``, cheap ones first.

    With the rows of both as the two sides and the units as edges this is a regular bipartite multigraph, in
    which a perfect matching always exists, also once some have been taken out. Each is found by augmenting
    paths that try cheap units first.

    Reference:
        Konig, "Uber Graphen und ihre Anwendung auf Determinantentheorie und Mengenlehre", 1916.
    """
    row = {unit: number for number, units in enumerate(second.tolist()) for unit in units}
    edges = first.gather(1, growth.price(first).argsort(1)).tolist()
    found = []
    for _ in range(first.shape[1]):
        matched: dict[int, tuple[int, int]] = {}  # row of second -> row of first, unit
        for number in range(len(edges)):
            _augment(number, edges, row, matched, set())
        taken = {unit for _, unit in matched.values()}
        found.append(torch.tensor(sorted(taken)))
        edges = [[unit for unit in units if unit not in taken] for units in edges]
    return found


def _augment(
    number: int,
    edges: Sequence[Sequence[int]],
    row: Mapping[int, int],
    matched: dict[int, tuple[int, int]],
    tried: set[int],
) -> bool:
    """Match one row more, moving others where that makes room."""
    for unit in edges[number]:
        other = row[unit]
        if other in tried:
            continue
        tried.add(other)
        if other not in matched or _augment(matched[other][0], edges, row, matched, tried):
            matched[other] = number, unit
            return True
    return False


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

    def price(self, units: Tensor) -> Tensor:
        """What units are ranked by: their score, 0 without any; those that must stay come last."""
        return torch.where(self.blocked[units], torch.inf, self.scores[units].nan_to_num(0.0))

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
            work = sorted({key for unit in queue for key in self.touching.get(unit, ())})
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
        inputs, outputs = self.grouped[number]
        whole = chosen[inputs].all(1) | chosen[outputs].all(1)  # convolution groups that go, both sides
        sides = torch.cat([inputs[whole].reshape(-1), outputs[whole].reshape(-1)])
        missing: list[int] = sides[~chosen[sides]].tolist()
        return missing + [u for array in (inputs, outputs) for u in self._balanced(array[~whole], chosen)]

    def _balanced(self, array: Tensor, chosen: Tensor) -> list[int]:
        """What is missing so that every row, a convolution group that stays, has lost as many units."""
        taken = chosen[array].sum(1)
        most = int(taken.max()) if len(taken) else 0
        missing = []
        for group in torch.nonzero(taken < most).reshape(-1).tolist():
            free = array[group][~chosen[array[group]]]
            order = self.price(free).argsort()
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
