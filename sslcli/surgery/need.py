"""Needs: which elements of which tensors the network's outputs depend on, propagated backwards.

An element is needed when some reader with a non-zero weight needs it, and its own value is not known. Where
an axis is contracted, the units of the elements that are read there are alive; a known value that is read is
left to be folded into the reader (``Folding``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from sslcli.graph.facets import compress
from sslcli.graph.ops import bind, factors, is_tensor, kind_of, op_name, shape_of
from sslcli.graph.rules import reduced_axes
from sslcli.graph.slots import run_op
from sslcli.surgery.known import (
    Known,
    Values,
    channel_vectors,
    conv_matrices,
    einsum_labels,
    padded,
    product_labels,
)


@dataclass(frozen=True)
class Folding:
    """A reader whose operand has channels that are known and not zero.

    ``channels`` is bool (C,): those that the reader reads with non-zero weight. ``number`` is their value.
    ``uniform`` says that they add the same to every place of the result, so that a bias can take them up;
    otherwise they can only be merged into one channel.
    """

    node: fx.Node
    source: fx.Node
    axis: int
    channels: Tensor
    number: Tensor
    uniform: bool


class Needs:
    """Needed elements of every node, the units they make alive, and the folds that were counted on."""

    def __init__(self, values: Values, *, fold: bool = True) -> None:
        self.values = values
        self.structure = values.structure
        self.fold = fold
        self.need: dict[fx.Node, list[Tensor]] = {}
        self.alive = torch.zeros(self.structure.units.count, dtype=torch.bool)
        self.foldings: list[Folding] = []
        for node in reversed(self.structure.nodes):
            if node.op == "output":
                for source in node.all_input_nodes:
                    self.want(source, _everything(source))
            elif node.op == "call_function" and node in self.need:
                self._call(node)

    def of(self, node: fx.Node, position: int = 0) -> Tensor:
        """Bool, broadcastable to the node's shape: what is needed of it."""
        if node in self.need:
            return self.need[node][position]
        value = node.meta["val"]
        rank = (value[position] if isinstance(value, tuple | list) else value).dim()
        return torch.zeros((1,) * rank, dtype=torch.bool)

    def want(self, node: Any, array: Tensor, position: int = 0) -> None:
        """Add to what is needed of a node."""
        if not is_tensor(node) and not isinstance(node, fx.Node):
            return
        value = node.meta["val"]
        ranks = [v.dim() for v in value] if isinstance(value, tuple | list) else [value.dim()]
        held = self.need.setdefault(node, [torch.zeros((1,) * rank, dtype=torch.bool) for rank in ranks])
        held[position] = compress(held[position] | array)

    def read(self, node: fx.Node, array: Tensor) -> None:
        """Mark the units of elements that a reader ends on as alive."""
        for facet in self.structure.of(node):
            mask = array
            for axis in range(mask.dim()):
                if mask.shape[axis] > 1 and facet.shape[axis] == 1:
                    mask = mask.any(axis, keepdim=True)
            chosen = facet[mask.expand(facet.shape)]
            self.alive[self.structure.units.find(chosen)] = True

    def _call(self, node: fx.Node) -> None:
        kind = kind_of(node)
        if kind == "getitem":
            source, position = node.args
            self.want(source, self.need[node][0], position)  # type: ignore[arg-type]
            return
        wanted = [_unknown_part(n, k) for n, k in zip(self.need[node], self.values.known[node], strict=True)]
        if not any(bool(w.any()) for w in wanted):
            return
        rule = RULES.get(kind)
        if rule is None:
            for source in node.all_input_nodes:
                if _has_values(source):
                    self.want_all(source)
            return
        rule(self, node, wanted if isinstance(node.meta["val"], tuple | list) else wanted[0])

    def want_all(self, source: fx.Node) -> None:
        """Everything of a node is needed."""
        value = source.meta["val"]
        values = value if isinstance(value, tuple | list) else [value]
        for position, tensor in enumerate(values):
            if isinstance(tensor, torch.Tensor):
                self.want(source, torch.ones((1,) * tensor.dim(), dtype=torch.bool), position)


def _has_values(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor | tuple | list)


def _everything(node: fx.Node) -> Tensor:
    return torch.ones((1,) * len(shape_of(node)), dtype=torch.bool)


def _unknown_part(need: Tensor, known: Known | None) -> Tensor:
    return need if known is None else need & ~known.mask


def _fit(array: Tensor, node: fx.Node) -> Tensor:
    """Reduce a need of a broadcast result to the shape of one operand."""
    size = shape_of(node)
    extra = array.dim() - len(size)
    if extra:
        array = array.flatten(0, extra - 1).any(0)
    for axis, n in enumerate(size):
        if n == 1 and array.shape[axis] > 1:
            array = array.any(axis, keepdim=True)
    return array


def _elementwise(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    for source in node.all_input_nodes:
        if is_tensor(source):
            needs.want(source, _fit(wanted, source))


def _first(needs: Needs, node: fx.Node, wanted: Tensor | list[Tensor]) -> None:
    """Norms and the like that keep elements apart along channels: mixes over the places."""
    array = wanted[0] if isinstance(wanted, list) else wanted
    needs.want(node.all_input_nodes[0], array)
    for parameter in node.all_input_nodes[1:]:
        if is_tensor(parameter):
            needs.want_all(parameter)


def _places(needs: Needs, node: fx.Node, wanted: Tensor | list[Tensor]) -> None:
    """Windows and instance norms: every place of a channel that is needed anywhere."""
    arrays = wanted if isinstance(wanted, list) else [wanted]
    for array in arrays:
        for axis in mixed_places(node, array.dim()):
            array = array.any(axis, keepdim=True)
        _first(needs, node, array)


def mixed_places(node: fx.Node, rank: int) -> range:
    """The trailing axes that a window or an instance norm mixes along."""
    digits = [c for c in op_name(node) if c.isdigit()]
    return range(rank - int(digits[-1]), rank) if digits else range(2, rank)


def _channels(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    """Group norm: the whole group."""
    groups = int(bind(node)["num_groups"])
    for axis in range(2, wanted.dim()):
        wanted = wanted.any(axis, keepdim=True)
    if wanted.shape[1] > 1:
        size = wanted.shape
        rows = wanted.reshape(size[0], groups, -1)
        wanted = rows.any(2, keepdim=True).expand_as(rows).reshape(size)
    _first(needs, node, wanted)


def _shape(needs: Needs, node: fx.Node, wanted: Tensor | list[Tensor]) -> None:
    source = next(n for n in node.all_input_nodes if is_tensor(n))
    for index in node.all_input_nodes:
        if index is not source and is_tensor(index):
            needs.want_all(index)
    arrays = wanted if isinstance(wanted, list) else [wanted]
    if all(bool(array.all()) for array in arrays):
        needs.want_all(source)
        return
    full = shape_of(source)
    places = torch.arange(math.prod(full)).reshape(full)
    moved = run_op(node, {source: places}, needs.values.constant)
    result = torch.zeros(math.prod(full), dtype=torch.bool)
    for place, array in zip(moved if isinstance(wanted, list) else [moved], arrays, strict=True):
        result[place[array.expand(place.shape)]] = True
    needs.want(source, result.reshape(full))


def _create(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    """Made from nothing."""


def _index(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    for source in node.all_input_nodes:
        if is_tensor(source):
            needs.want_all(source)


def _cat(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    arguments = bind(node)
    dim, start = arguments["dim"] % wanted.dim(), 0
    for source in arguments["tensors"]:
        if shape_of(source) == (0,):
            continue
        width = shape_of(source)[dim]
        needs.want(source, wanted.narrow(dim, start, width) if wanted.shape[dim] > 1 else wanted)
        start += width


def _stack(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    arguments = bind(node)
    dim = arguments["dim"] % wanted.dim()
    for position, source in enumerate(arguments["tensors"]):
        needs.want(source, wanted.select(dim, position if wanted.shape[dim] > 1 else 0))


def _scatter(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    needs.want(bind(node)["self"], wanted)
    needs.want_all(bind(node)["src"])


def _pad(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    arguments = bind(node)
    x, amounts = arguments["self"], [int(a) for a in arguments["pad"]]
    for pair in range(len(amounts) // 2):
        axis, low = wanted.dim() - 1 - pair, amounts[2 * pair]
        if wanted.shape[axis] == 1 or not any(amounts[2 * pair : 2 * pair + 2]):
            continue
        size = shape_of(x)[axis]
        inner = torch.zeros_like(wanted.narrow(axis, 0, 1)).repeat_interleave(size, axis)
        start, stop = max(0, -low), min(size, wanted.shape[axis] - low)
        inner.narrow(axis, start, stop - start).copy_(wanted.narrow(axis, start + low, stop - start))
        wanted = inner
        if arguments.get("mode", "constant") != "constant":
            wanted = wanted.any(axis, keepdim=True)
    needs.want(x, wanted)


def _conv(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    arguments = bind(node)
    x, weight, groups = arguments["input"], arguments["weight"], int(arguments["groups"])
    matrix = needs.values.full(weight)

    def read_by(array: Tensor) -> Tensor:
        if matrix is None:
            return torch.ones(shape_of(x)[1], dtype=torch.bool)
        rows = array.transpose(0, 1).flatten(1).any(1).expand(shape_of(node)[1])
        live, _ = conv_matrices(matrix, groups, transposed=kind_of(node) == "conv_transpose")
        return (rows.reshape(groups, 1, -1).double() @ live.double()).reshape(-1) > 0

    uniform = kind_of(node) == "conv" and not padded(node)
    _end(needs, node, x, 1, read_by(wanted), read_by(wanted | _known(needs, node)), uniform)
    needs.want_all(weight)
    if arguments["bias"] is not None:
        needs.want_all(arguments["bias"])


def _end(
    needs: Needs, node: fx.Node, x: fx.Node, axis: int, reads: Tensor, told: Tensor, uniform: bool
) -> None:
    """A weight reads the channels ``reads`` of x: alive, unless known; then zero, or to be folded.

    ``told`` are the channels read for results that are known as well: they matter where they are constants,
    since such a result stays when its unit does, and is then computed.
    """
    size = [1] * len(shape_of(x))
    size[axis] = -1
    mask, number = channel_vectors(needs.values.of(x), axis, len(reads))
    constant = told & mask & (number != 0)
    reads = reads | constant
    needs.want(x, reads.reshape(size))
    unread = mask & (number == 0)
    if bool(constant.any()) and needs.fold and _own_weights(node):
        needs.foldings.append(Folding(node, x, axis, constant, number, uniform))
        unread = unread | constant
    needs.read(x, (reads & ~unread).reshape(size))


def _known(needs: Needs, node: fx.Node) -> Tensor:
    known = needs.values.of(node)
    return torch.zeros((1,) * len(shape_of(node)), dtype=torch.bool) if known is None else known.mask


def _own_weights(node: fx.Node) -> bool:
    """Whether the reader's weight and bias are parameters that nothing else reads."""
    arguments = bind(node)
    used = [arguments["weight"], *([arguments["bias"]] if arguments["bias"] is not None else [])]
    return all(n.op == "placeholder" and len(n.users) == 1 for n in used)


def _linear(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    arguments = bind(node)
    x, weight = arguments["input"], arguments["weight"]
    matrix = needs.values.full(weight)
    rows, columns = shape_of(weight)
    size = shape_of(x)

    def read_by(array: Tensor) -> Tensor:
        if matrix is None:
            return torch.ones(columns, dtype=torch.bool)
        per_row = array.expand(*array.shape[:-1], rows).reshape(-1, rows).any(0)
        return (per_row.double() @ (matrix != 0).double()) > 0

    _end(needs, node, x, len(size) - 1, read_by(wanted), read_by(wanted | _known(needs, node)), True)
    needs.want_all(weight)
    if arguments["bias"] is not None:
        needs.want_all(arguments["bias"])


def _matmul(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    _product(needs, node.args[0], node.args[1], wanted)


def _product(needs: Needs, first: Any, second: Any, wanted: Tensor) -> None:
    labels = product_labels(first, second)
    if labels is None:
        needs.want_all(first)
        needs.want_all(second)
    else:
        _labelled_product(needs, first, second, *labels, wanted)


def _labelled_product(
    needs: Needs, first: fx.Node, second: fx.Node, la: str, lb: str, out: str, wanted: Tensor
) -> None:
    """An element is needed where its partner is not known to be zero and their result is needed."""
    for own, other, mine, theirs in ((first, second, la, lb), (second, first, lb, la)):
        partner = (~_zeros(needs, other)).double()
        reads = torch.einsum(f"{out},{theirs}->{mine}", wanted.double(), partner) > 0
        reads = _fit(reads, own)
        needs.want(own, reads)
        needs.read(own, reads & ~_zeros(needs, own))


def _zeros(needs: Needs, node: fx.Node) -> Tensor:
    known = needs.values.of(node)
    if known is None:
        return torch.zeros((1,) * len(shape_of(node)), dtype=torch.bool)
    return known.zero


def _addmm(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    arguments = bind(node)
    needs.want(arguments["self"], _fit(wanted, arguments["self"]))
    _product(needs, *factors(node), wanted)


def _einsum(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    tensors, labels = bind(node)["tensors"], einsum_labels(node)
    if labels is not None:
        _labelled_product(needs, tensors[0], tensors[1], *labels, wanted)
        return
    for source in tensors:
        needs.want_all(source)
        needs.read(source, ~_zeros(needs, source))


def _attention(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    arguments = bind(node)
    q, k, v = arguments["query"], arguments["key"], arguments["value"]
    places = wanted.any(-2, keepdim=True)
    needs.want(v, places)
    needs.read(v, places & ~_zeros(needs, v))
    heads = places.any(-1, keepdim=True)
    _scores(needs, q, k, heads)
    _scores(needs, k, q, heads)
    if arguments.get("attn_mask") is not None:
        needs.want_all(arguments["attn_mask"])


def _scores(needs: Needs, own: fx.Node, other: fx.Node, heads: Tensor) -> None:
    partner = (~_zeros(needs, other)).any(-2, keepdim=True)
    reads = heads & partner
    needs.want(own, reads)
    needs.read(own, reads & ~_zeros(needs, own))


def _layer_norm(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    count = len(bind(node)["normalized_shape"])
    for axis in range(wanted.dim() - count, wanted.dim()):
        wanted = wanted.any(axis, keepdim=True)
    _first(needs, node, wanted)


def _unfold(needs: Needs, node: fx.Node, wanted: Tensor) -> None:
    x = bind(node)["self"]
    channels = shape_of(x)[1]
    if wanted.shape[1] > 1:
        wanted = wanted.any(2).any(0).reshape(channels, -1).any(1).reshape(1, -1, 1, 1)
        needs.want(x, wanted)
    else:
        needs.want_all(x)


def _along(needs: Needs, node: fx.Node, wanted: Tensor | list[Tensor]) -> None:
    dim = int(bind(node)["dim"])
    for array in wanted if isinstance(wanted, list) else [wanted]:
        needs.want(bind(node)["self"], array.any(dim, keepdim=True))


def _reduce(needs: Needs, node: fx.Node, wanted: Tensor | list[Tensor]) -> None:
    source = node.all_input_nodes[0]
    rank = len(shape_of(source))
    axes = reduced_axes(bind(node), rank)
    for array in wanted if isinstance(wanted, list) else [wanted]:
        if array.dim() < rank:
            size = iter(array.shape)
            array = array.reshape([1 if axis in axes else next(size) for axis in range(rank)])
        needs.want(source, array)
        if op_name(node) in ("sum", "nansum"):
            needs.read(source, array & ~_zeros(needs, source))


RULES: dict[str, Callable[[Needs, fx.Node, Any], None]] = {
    "elementwise": _elementwise,
    "prelu": _first,
    "shape": _shape,
    "create": _create,
    "index": _index,
    "cat": _cat,
    "stack": _stack,
    "scatter": _scatter,
    "pad": _pad,
    "conv": _conv,
    "conv_transpose": _conv,
    "linear": _linear,
    "matmul": _matmul,
    "addmm": _addmm,
    "einsum": _einsum,
    "attention": _attention,
    "batch_norm": _first,
    "instance_norm": _places,
    "group_norm": _channels,
    "layer_norm": _layer_norm,
    "weight_norm": _elementwise,
    "window": _places,
    "unfold": _unfold,
    "along": _along,
    "reduce": _reduce,
    "embedding": _index,
}
