"""What is kept: alive units, closed under everything that must stay together, and what that costs.

Pruning only ever removes units that are dead at the weights as they are. Constraints (joint facets, links,
grouped convolutions) can only bring units back, so the result is exact whatever the zero pattern.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from sslcli.graph.ops import bind, factors, is_tensor, kind_of, op_name, shape_of
from sslcli.graph.slots import Structure
from sslcli.surgery.known import Values
from sslcli.surgery.need import Folding, Needs

Kept = dict[int, Tensor]  # axis -> sorted indices; an axis that is whole is absent


@dataclass(frozen=True)
class Cut:
    """What would be kept at given weights.

    Attributes:
        structure: the network.
        values: what is known of every node.
        needs: what is needed of every node.
        alive: bool, by unit number: kept.
        kept: per node with one tensor value, the kept indices of the axes that lose some.
        merges: for each folding that a bias cannot take up, the channel that takes up each group's others.
    """

    structure: Structure
    values: Values
    needs: Needs
    alive: Tensor
    kept: Mapping[fx.Node, list[Kept]]
    merges: Mapping[fx.Node, dict[int, int]]

    def of(self, node: fx.Node) -> Kept:
        """Kept indices by axis of a node with one tensor value."""
        return self.kept[node][0]

    def size(self, node: fx.Node, position: int = 0) -> tuple[int, ...]:
        """The shape that a node will have."""
        value = node.meta["val"]
        shape = (value[position] if isinstance(value, tuple | list) else value).shape
        full = [int(n.node.hint) if isinstance(n, torch.SymInt) else int(n) for n in shape]
        kept = self.kept[node][position]
        return tuple(len(kept[axis]) if axis in kept else n for axis, n in enumerate(full))

    def is_constant(self, node: fx.Node) -> bool:
        """Whether every element of a node that is kept is known."""
        known = self.values.of(node)
        return known is not None and bool(taken(known.mask, self.of(node)).all())

    def is_needed(self, node: fx.Node) -> bool:
        """Whether a node has to be computed."""
        return any(bool(array.any()) for array in self.needs.need.get(node, []))

    @property
    def dead(self) -> bool:
        """Whether no output depends on any input any more."""
        return not any(self.is_needed(node) for node in self.structure.program.inputs)


def taken(array: Tensor, kept: Kept) -> Tensor:
    """The kept part of an array that broadcasts to a node's shape."""
    for axis, places in kept.items():
        if array.shape[axis] > 1:
            array = array.index_select(axis, places)
        elif len(places) == 0:
            array = array.narrow(axis, 0, 0)
    return array


def cut(
    structure: Structure,
    weights: Mapping[str, Tensor],
    *,
    fold: bool = True,
    align: int = 1,
    filters: Sequence[Tensor] = (),
) -> Cut:
    """Find what to keep of a network at the given weights.

    Args:
        structure: from ``graph.analyse``.
        weights: every parameter, buffer and constant by name.
        fold: let readers take up the constants of what is removed.
        align: each layer keeps a multiple of this of its filters, dead ones among them, if it has as many.
        filters: for ``align``, the units of each layer's filters (-1: none).
    """
    values = Values(structure, weights)
    needs = Needs(values, fold=fold)
    units = structure.units
    alive = needs.alive.clone()
    numbers = torch.arange(units.count)
    alive[numbers[units.pinned(numbers)]] = True
    for name in structure.program.unused:  # what the graph never reads is left alone
        for facet in structure.facets[structure.program.placeholder(name)][0]:
            alive[facet[facet > 0]] = True
    alive = alive[units.find(numbers)] | alive
    close(structure, alive)
    merges: dict[fx.Node, dict[int, int]] = {}
    while True:
        before = int(alive.sum())
        merges = {f.node: _merge(structure, f, alive) for f in needs.foldings if not f.uniform}
        _round_up(structure, alive, filters, align)
        close(structure, alive)
        if int(alive.sum()) == before:
            break
    kept = {node: [keep(facets, alive) for facets in several] for node, several in structure.facets.items()}
    return Cut(structure, values, needs, alive, kept, merges)


def _round_up(structure: Structure, alive: Tensor, filters: Sequence[Tensor], align: int) -> None:
    """Let dead filters live where a layer would keep a number of them that kernels do not like."""
    units = structure.units
    for rows in filters if align > 1 else ():
        if bool((rows < 0).any()):
            continue
        roots = units.find(rows)
        dead = torch.unique(roots[~alive[roots]])
        missing = -int(alive[roots].sum()) % align
        if missing <= len(dead) and bool(alive[roots].any()):
            alive[dead[:missing]] = True
    alive |= alive[units.find(torch.arange(units.count))]


def keep(facets: list[Tensor], alive: Tensor) -> Kept:
    """The kept indices along every axis that loses some."""
    result: Kept = {}
    for facet in facets:
        living = alive[facet]
        for axis in range(facet.dim()):
            if facet.shape[axis] == 1:
                continue
            rows = living.movedim(axis, 0).flatten(1).any(1) if facet.dim() > 1 else living
            if axis in result:
                rows &= torch.zeros_like(rows).index_fill_(0, result[axis], 1)
            if not bool(rows.all()) or axis in result:
                result[axis] = torch.nonzero(rows).reshape(-1)
    return result


def close(structure: Structure, alive: Tensor) -> None:
    """Bring back what must stay with what is alive, until nothing changes."""
    grouped = [(structure.units.find(g.inputs), structure.units.find(g.outputs)) for g in structure.grouped]
    while True:
        before = int(alive.sum())
        for array in structure.rigid:
            _close_product(array, alive)
        for link in structure.links:
            _close_link(link.arrays, alive)
        for inputs, outputs in grouped:
            _close_groups(inputs, outputs, alive)
        if int(alive.sum()) == before:
            return


def _close_product(array: Tensor, alive: Tensor) -> None:
    living = alive[array]
    if bool(living.all()) or not bool(living.any()):
        return
    product = torch.ones_like(living)
    for axis in range(array.dim()):
        others = [a for a in range(array.dim()) if a != axis]
        rows = living
        for other in others:
            rows = rows.any(other, keepdim=True)
        product = product & rows
    alive[array[product]] = True


def _close_link(arrays: tuple[Tensor, ...], alive: Tensor) -> None:
    living = [alive[array] for array in arrays]
    rows = torch.stack([one.any(1) for one in living]).any(0)
    for array, one in zip(arrays, living, strict=True):
        missing = rows & ~one.any(1)
        if bool(missing.any()):
            column = int(one.any(0).long().argmax())
            alive[array[missing, column]] = True


def _close_groups(inputs: Tensor, outputs: Tensor, alive: Tensor) -> None:
    present = alive[inputs].any(1) | alive[outputs].any(1)
    for array in (inputs, outputs):
        living = alive[array]
        width = max(int(living.sum(1).max()), 1) if bool(present.any()) else 0
        for group in torch.nonzero(present & (living.sum(1) < width)).reshape(-1):
            missing = width - int(living[group].sum())
            alive[array[group][~living[group]][:missing]] = True


def _merge(structure: Structure, folding: Folding, alive: Tensor) -> dict[int, int]:
    """Choose the channel of each group that takes up the constants of the removed ones; it stays alive."""
    unit = channel_units(structure, folding.source, folding.axis)
    if unit is None:
        return {}
    groups = int(bind(folding.node)["groups"])
    channels, number = folding.channels.reshape(groups, -1), folding.number.abs().reshape(groups, -1)
    unit = unit.reshape(groups, -1)
    chosen: dict[int, int] = {}
    for group in torch.nonzero((channels & ~alive[unit]).any(1)).reshape(-1).tolist():
        removed = channels[group] & ~alive[unit[group]]
        size = torch.where(channels[group], number[group], 0.0)
        standing = torch.where(removed, 0.0, size)
        best = int(standing.argmax())
        if float(standing[best]) < 1e-3 * float(size.max()):
            best = int(size.argmax())
            alive[unit[group, best]] = True
        chosen[group] = group * channels.shape[1] + best
    return chosen


def channel_units(structure: Structure, node: fx.Node, axis: int) -> Tensor | None:
    """The units along one axis as a vector, None where it is whole or varies with other axes."""
    along = [facet for facet in structure.of(node) if facet.shape[axis] > 1]
    if len(along) != 1 or along[0].numel() != along[0].shape[axis]:
        return None
    return along[0].reshape(-1)


@dataclass(frozen=True)
class Remaining:
    """What is left: multiply-accumulates of one sample, and numbers in parameters."""

    macs: int
    params: int


def count(found: Cut | None, structure: Structure) -> Remaining:
    """Count a network as it is (``found`` None) or as a cut would leave it."""
    macs, used, sources = 0, set[fx.Node](), _weight_sources(structure)
    batch = max(structure.program.batch_hint, 1)
    for node in structure.nodes:
        if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        if found is not None and (not found.is_needed(node) or found.is_constant(node)):
            continue
        used.update(*(sources[source] for source in node.all_input_nodes if source in sources))
        macs += macs_of(node, found)
    params = 0
    names = structure.program.names()
    parameters = parameter_names(structure)
    for node, name in names.items():
        if name in parameters and (found is None or node in used or name in structure.program.unused):
            params += math.prod(found.size(node) if found is not None else shape_of(node))
            if found is not None:
                params -= _grouped_away(node, found)
    if found is not None and found.needs is not None:
        params += sum(found.size(node)[_channel(node)] for node in _new_biases(found))
    return Remaining(macs // batch, params)


def removed_constants(found: Cut, folding: Folding) -> Tensor:
    """Which of a reader's constant channels a cut removes, bool (C,)."""
    unit = channel_units(found.structure, folding.source, folding.axis)
    if unit is None:
        return torch.zeros_like(folding.channels)
    return folding.channels & ~found.alive[unit]


def running_mean_behind(found: Cut, node: fx.Node) -> fx.Node | None:
    """The running mean of a batch norm that alone reads ``node`` and alone owns that mean."""
    users = list(node.users)
    if len(users) != 1 or op_name(users[0]) != "batch_norm" or bind(users[0])["input"] is not node:
        return None
    mean = bind(users[0])["running_mean"]
    owned = isinstance(mean, fx.Node) and mean in found.structure.program.names() and len(mean.users) == 1
    return mean if owned else None


def _new_biases(found: Cut) -> set[fx.Node]:
    """Readers without a bias that get one, since no batch norm behind them can take up the constants."""
    return {
        folding.node
        for folding in found.needs.foldings
        if folding.uniform
        and bind(folding.node)["bias"] is None
        and found.is_needed(folding.node)
        and not found.is_constant(folding.node)
        and bool(removed_constants(found, folding).any())
        and running_mean_behind(found, folding.node) is None
    }


def _channel(node: fx.Node) -> int:
    return -1 if kind_of(node) == "linear" else 1


def _weight_sources(structure: Structure) -> dict[fx.Node, set[fx.Node]]:
    """The weights that every weight, and every value computed of weights alone, comes from."""
    found: dict[fx.Node, set[fx.Node]] = {node: {node} for node in structure.program.names()}
    for node in structure.nodes:
        inputs = node.all_input_nodes
        if node.op == "call_function" and inputs and all(source in found for source in inputs):
            found[node] = set[fx.Node]().union(*(found[source] for source in inputs))
    return found


def parameter_names(structure: Structure) -> set[str]:
    """The names of the parameters (not the buffers) of a structure's program; tied ones once."""
    program = structure.program
    return set(program.exported.graph_signature.parameters) - set(program.tied)


def _grouped_away(node: fx.Node, found: Cut) -> int:
    """Numbers of a grouped convolution's weight that go with the columns of its groups."""
    for user in node.users:
        if kind_of(user) in ("conv", "conv_transpose") and bind(user)["weight"] is node:
            groups = int(bind(user)["groups"])
            if groups > 1:
                size = found.size(node)
                other = 0 if kind_of(user) == "conv_transpose" else 1
                return math.prod(size) - math.prod(size) // max(size[1], 1) * group_width(user, found, other)
    return 0


def group_width(node: fx.Node, found: Cut, side: int) -> int:
    """Channels (side 1) or filters (side 0) in a group of a grouped convolution after a cut."""
    present = len(kept_groups(node, found))
    total = found.size(bind(node)["input"] if side == 1 else node)[1]
    return total // max(present, 1)


def kept_groups(node: fx.Node, found: Cut) -> list[int]:
    """The groups of a grouped convolution that stay."""
    groups = int(bind(node)["groups"])
    channels = shape_of(node)[1]
    kept = found.of(node).get(1)
    if kept is None:
        return list(range(groups))
    return sorted(set((kept // (channels // groups)).tolist()))


def macs_of(node: fx.Node, found: Cut | None) -> int:
    """Multiply-accumulates of one node over the example's batch; 0 for ops that are not products."""

    def size(n: fx.Node) -> tuple[int, ...]:
        return found.size(n) if found is not None else shape_of(n)

    kind = kind_of(node)
    if kind in ("conv", "conv_transpose"):
        arguments = bind(node)
        taps = math.prod(shape_of(arguments["weight"])[2:])
        groups = int(arguments["groups"])
        if found is not None and groups > 1:
            groups = max(len(kept_groups(node, found)), 1)
        x, out = size(arguments["input"]), size(node)
        if kind == "conv":
            return math.prod(out) * (x[1] // max(groups, 1)) * taps
        return math.prod(x) * (out[1] // max(groups, 1)) * taps
    if kind == "linear":
        return math.prod(size(node)) * size(bind(node)["input"])[-1]
    if kind == "matmul":
        first = node.args[0]
        return math.prod(size(node)) * size(first)[-1] if is_tensor(first) else 0  # type: ignore[arg-type]
    if kind == "addmm":
        return math.prod(size(node)) * size(factors(node)[0])[-1]
    if kind == "attention":
        arguments = bind(node)
        q, k, v = (size(arguments[name]) for name in ("query", "key", "value"))
        return math.prod(q) * k[-2] + math.prod(q[:-1]) * k[-2] * v[-1]
    if kind == "einsum":
        return _einsum_macs(node, size)
    return 0


def _einsum_macs(node: fx.Node, size: object) -> int:
    arguments = bind(node)
    labels: dict[str, int] = {}
    inputs = arguments["equation"].replace(" ", "").split("->")[0].split(",")
    if len(arguments["tensors"]) != 2 or any("." in part for part in inputs):
        return 0
    for names, tensor in zip(inputs, arguments["tensors"], strict=True):
        labels |= {label: max(n, labels.get(label, 1)) for label, n in zip(names, size(tensor), strict=True)}  # type: ignore[operator]
    return math.prod(labels.values())
