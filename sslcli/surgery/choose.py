"""Choose what goes to meet a target: the least important units, as many as it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor, fx

from sslcli.graph.groups import matches
from sslcli.graph.ops import bind, factors, is_tensor, kind_of
from sslcli.graph.readers import Reader, readers
from sslcli.graph.slots import Structure
from sslcli.surgery.candidates import Candidate, candidates, importance
from sslcli.surgery.cut import Cut, Kept, close, count, cut, keep
from sslcli.surgery.zero import Zeroing

_TRIES = 6


@dataclass(frozen=True)
class Limits:
    """What a target may not take: layers kept whole, fractions by glob, a least width, a multiple."""

    keep: tuple[str, ...] = ()
    limit: Mapping[str, float] = field(default_factory=dict)
    min_width: int = 1
    align: int = 1


class _Sized(Cut):
    """A cut of which only sizes are known: everything is computed."""

    def is_needed(self, node: fx.Node) -> bool:
        return True

    def is_constant(self, node: fx.Node) -> bool:
        return False


class _Kept(dict[fx.Node, list[Kept]]):
    """What is kept of a node, found when it is asked for: counting asks for few nodes."""

    def __init__(self, structure: Structure, alive: Tensor) -> None:
        super().__init__()
        self._structure, self._alive = structure, alive

    def __missing__(self, node: fx.Node) -> list[Kept]:
        found = self[node] = [keep(facets, self._alive) for facets in self._structure.facets[node]]
        return found


def choose(
    structure: Structure,
    zeroing: Zeroing,
    target: Mapping[str, float],
    limits: Limits,
    scores: Mapping[str, Tensor] | None = None,
    *,
    fold: bool = True,
) -> Cut:
    """Set the least important units to zero until what is left meets the target; return the cut.

    Where the target cannot be met, all that may go is taken.

    Args:
        structure: the network.
        zeroing: weights to work on; what is chosen is set to zero there and noted.
        target: fractions of ``macs`` and ``params`` that may be left.
        limits: what may not be taken.
        scores: importance of every element by parameter; default: its square.
        fold: let later biases take up the constants of removed channels.
    """
    layers = readers(structure)
    scored = importance(structure, layers, zeroing.weights, scores)
    order = _allowed(structure, layers, candidates(structure, layers, scored, limits.keep), limits)
    whole = count(None, structure)
    budget = {name: fraction * getattr(whole, name) for name, fraction in target.items()}
    aim = dict(budget)
    for _ in range(_TRIES):
        taken = _fewest(structure, layers, order, aim, limits.align)
        trial = Zeroing(
            dict(zeroing.weights), {n: dict(a) for n, a in zeroing.slices.items()}, dict(zeroing.blocks)
        )
        found = _set_to_zero(structure, layers, trial, taken, fold)
        left = count(found, structure)
        over = {name: getattr(left, name) / budget[name] for name in budget}
        if max(over.values()) <= 1 or all(bool(taken[candidate.units].all()) for candidate in order):
            break
        aim = {name: aim[name] / max(over[name], 1.0) * 0.999 for name in aim}
    zeroing.weights, zeroing.slices, zeroing.blocks = trial.weights, trial.slices, trial.blocks
    return found


def take_filters(
    structure: Structure,
    zeroing: Zeroing,
    shares: Mapping[str, float],
    limits: Limits,
    worth: Tensor,
    *,
    fold: bool = True,
) -> None:
    """Set filters to zero, the least worth first, until of each layer the share that holds for it is gone.

    Args:
        structure: the network.
        zeroing: weights to work on; what is chosen is set to zero there and noted.
        shares: by glob the fraction of a layer's filters; the last that matches holds.
        limits: what may not be taken.
        worth: by unit.
        fold: let later biases take up the constants of removed channels.
    """
    layers = readers(structure)
    gone = ~cut(structure, zeroing.weights, fold=fold).alive
    wanted = {
        layer.name: [fraction for glob, fraction in shares.items() if matches(layer.layer, glob)][-1:]
        for layer in layers
    }
    meant = torch.zeros(structure.units.count, dtype=torch.bool)
    for layer in layers:
        if wanted[layer.name]:
            meant[structure.units.find(layer.rows[layer.rows >= 0])] = True
    found = [
        candidate
        for candidate in candidates(structure, layers, worth, limits.keep)
        if bool(meant[candidate.units].any()) and not bool(gone[candidate.units].all())
    ]
    most = {name: fractions[0] for name, fractions in wanted.items() if fractions}
    order = _allowed(structure, layers, found, limits, most, gone)
    taken = _taken(structure, layers, order, limits.align)
    _set_to_zero(structure, layers, zeroing, taken, fold)


def _allowed(
    structure: Structure,
    layers: Sequence[Reader],
    found: Sequence[Candidate],
    limits: Limits,
    most: Mapping[str, float] = MappingProxyType({}),
    gone: Tensor | None = None,
) -> list[Candidate]:
    """Candidates in order, without those that would make a layer too narrow.

    Args:
        structure: the network.
        layers: its readers.
        found: in order.
        limits: what may not be taken.
        most: by a layer's weight the fraction of its filters that may be gone.
        gone: bool by unit, what has gone already; it counts, and costs nothing more.
    """
    owners: dict[int, list[int]] = {}
    room: list[int] = []
    seen: dict[str, int] = {}
    for layer in layers:
        if layer.name in seen:
            continue
        number = seen[layer.name] = len(room)
        roots = structure.units.find(layer.rows.clamp(min=0))
        width = len(layer.rows)
        fraction = min((f for glob, f in limits.limit.items() if matches(layer.layer, glob)), default=1.0)
        fraction = min(fraction, most.get(layer.name, 1.0))
        before = 0 if gone is None else int(gone[roots[layer.rows >= 0]].sum())
        room.append(min(int(fraction * width + 1e-9), width - max(limits.min_width, 1)) - before)
        for unit in roots[layer.rows >= 0].tolist():
            owners.setdefault(unit, []).append(number)
    order = []
    for candidate in found:
        costs: dict[int, int] = {}
        for unit in candidate.units.tolist():
            if gone is not None and bool(gone[unit]):
                continue
            for number in owners.get(unit, ()):
                costs[number] = costs.get(number, 0) + 1
        if all(cost <= room[number] for number, cost in costs.items()):
            order.append(candidate)
            for number, cost in costs.items():
                room[number] -= cost
    return order


def _fewest(
    structure: Structure,
    layers: Sequence[Reader],
    order: Sequence[Candidate],
    budget: Mapping[str, float],
    align: int,
) -> Tensor:
    """Bool by unit: the shortest run of candidates that leaves no more than the budget, or all of them."""

    def fits(length: int) -> bool:
        left = _sizes(structure, _taken(structure, layers, order[:length], align))
        return all(getattr(left, name) <= budget[name] for name in budget)

    low, high = 0, len(order)
    if not fits(high):
        return _taken(structure, layers, order, align)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return _taken(structure, layers, order[:low], align)


def _taken(structure: Structure, layers: Sequence[Reader], chosen: Sequence[Candidate], align: int) -> Tensor:
    taken = torch.zeros(structure.units.count, dtype=torch.bool)
    for candidate in chosen:
        taken[candidate.units] = True
    if align > 1:
        _give_back(structure, layers, taken, chosen, align)
    return taken


def _give_back(
    structure: Structure, layers: Sequence[Reader], taken: Tensor, chosen: Sequence[Candidate], align: int
) -> None:
    """Round the filters that every layer keeps up to a multiple, best ones first."""
    single = [candidate for candidate in chosen if len(candidate.units) == 1]
    for layer in layers:
        rows = layer.rows
        if bool((rows < 0).any()) or len(rows) % align:
            continue
        rows = structure.units.find(rows)
        own = set(rows[taken[rows]].tolist())
        for candidate in reversed(single):
            if (len(rows) - int(taken[rows].sum())) % align == 0:
                break
            if int(candidate.units[0]) in own:
                taken[candidate.units] = False


def _sizes(structure: Structure, taken: Tensor) -> object:
    alive = ~taken
    close(structure, alive)
    return count(_Sized(structure, None, None, alive, _Kept(structure, alive), {}), structure)  # type: ignore[arg-type]


def _set_to_zero(
    structure: Structure, layers: Sequence[Reader], zeroing: Zeroing, taken: Tensor, fold: bool
) -> Cut:
    """Zero whatever writes the units; where they live on, also what reads them. Return what is then left."""
    alive = ~taken
    close(structure, alive)
    gone = ~alive
    reading = read_axes(structure)
    parameters = set(structure.program.exported.graph_signature.parameters)
    normed = {layer.name for layer in layers if layer.scale is not None}
    for node, name in structure.program.names().items():
        if name not in parameters or name in normed:
            continue
        for facet in structure.of(node):
            axes = [axis for axis in range(facet.dim()) if facet.shape[axis] > 1]
            if len(axes) == 1 and (name, axes[0]) not in reading:
                zeroing.slice(name, axes[0], torch.nonzero(gone[facet.reshape(-1)]).reshape(-1))
    found = cut(structure, zeroing.weights, fold=fold)
    if not bool((gone & found.alive).any()):
        return found
    _zero_readers(structure, layers, zeroing, gone & found.alive)
    return cut(structure, zeroing.weights, fold=fold)


def _zero_readers(structure: Structure, layers: Sequence[Reader], zeroing: Zeroing, units: Tensor) -> None:
    for layer in layers:
        columns = structure.units.find(layer.columns.clamp(min=0))
        hit = (layer.columns >= 0) & units[columns]
        if layer.depthwise or layer.scale is not None or not bool(hit.any()):
            continue
        if layer.groups == 1:
            zeroing.slice(
                layer.name, 0 if layer.kind == "conv_transpose" else 1, torch.nonzero(hit).reshape(-1)
            )
        elif layer.kind == "conv":
            width, height = layer.shape[1], layer.shape[0] // layer.groups
            for place in torch.nonzero(hit).reshape(-1).tolist():
                group = place // width
                rows = list(range(group * height, (group + 1) * height))
                zeroing.block(layer.name, {0: rows, 1: [place % width]})


def read_axes(structure: Structure) -> set[tuple[str, int]]:
    """The axes of parameters that products contract: (name, axis)."""
    names = structure.program.names()
    found: set[tuple[str, int]] = set()
    for node in structure.nodes:
        kind = kind_of(node) if node.op == "call_function" else ""
        operands: list[tuple[fx.Node, int]] = []
        if kind in ("conv", "linear"):
            operands = [(bind(node)["weight"], 1)]
        elif kind == "conv_transpose":
            operands = [(bind(node)["weight"], 0)]
        elif kind in ("matmul", "addmm"):
            first, second = factors(node)
            operands = [(first, -1), (second, -2)]
        elif kind == "einsum":
            operands = _contracted(node)
        for operand, axis in operands:
            if is_tensor(operand):
                found |= _traced(structure, names, operand, axis)
    return found


def _contracted(node: fx.Node) -> list[tuple[fx.Node, int]]:
    arguments = bind(node)
    inputs, _, out = arguments["equation"].replace(" ", "").partition("->")
    return [
        (tensor, axis)
        for labels, tensor in zip(inputs.split(","), arguments["tensors"], strict=False)
        for axis, label in enumerate(labels)
        if label not in out
    ]


def _traced(
    structure: Structure, names: Mapping[fx.Node, str], operand: fx.Node, axis: int
) -> set[tuple[str, int]]:
    """The axes of parameters that an axis of an operand comes from, through shape ops."""
    if operand in names:
        return {(names[operand], axis % operand.meta["val"].dim())}
    rank = operand.meta["val"].dim()
    units = {
        int(u) for f in structure.of(operand) if f.shape[axis % rank] > 1 for u in f.reshape(-1).tolist()
    }
    found, stack = set[tuple[str, int]](), [operand]
    while stack and units:
        node = stack.pop()
        if node in names:
            for facet in structure.of(node):
                axes = [a for a in range(facet.dim()) if facet.shape[a] > 1]
                if len(axes) == 1 and units & set(facet.reshape(-1).tolist()):
                    found.add((names[node], axes[0]))
        elif node.op == "call_function" and kind_of(node) in ("shape", "weight_norm", "index"):
            stack.extend(source for source in node.all_input_nodes if is_tensor(source))
    return found
