"""Known values: which elements of which tensors do not depend on the network's input, and what they are.

Propagated forwards at the weights as they are: a row of zeros makes a channel that is its bias, a norm with
scale 0 makes its shift, a product with 0 is 0. A ``Known`` is a mask and a value, each broadcastable to the
tensor; ``None`` means that nothing is known. Values are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from sslcli.graph.facets import compress
from sslcli.graph.ops import bind, factors, is_tensor, kind_of, op_name, shape_of
from sslcli.graph.rules import reduced_axes
from sslcli.graph.slots import Structure, run_op


@dataclass(frozen=True)
class Known:
    """``mask`` says where the value is known, ``value`` what it is (anything where it is not)."""

    mask: Tensor
    value: Tensor

    @property
    def zero(self) -> Tensor:
        """Where the value is known to be zero."""
        return self.mask & (self.value == 0)


class Values:
    """Known values of every node of a structure, at given weights."""

    def __init__(self, structure: Structure, weights: Mapping[str, Tensor]) -> None:
        self.structure = structure
        self.names = structure.program.names()
        self.weights = weights
        self.known: dict[fx.Node, list[Known | None]] = {}
        self._full: dict[fx.Node, Tensor] = {}
        for node in structure.nodes:
            if node.op == "placeholder":
                self.known[node] = [self._placeholder(node)]
            elif node.op == "call_function":
                self.known[node] = self._call(node)

    def of(self, node: Any) -> Known | None:
        """What is known of a node with one tensor value."""
        return self.known[node][0]

    def constant(self, node: Any) -> Tensor | None:
        """The weight that a placeholder stands for."""
        name = self.names.get(node)
        return None if name is None else self.weights[name]

    def full(self, node: fx.Node) -> Tensor | None:
        """The value of a node that is known everywhere, in its full shape; None if it is not."""
        if node in self._full:
            return self._full[node]
        known = self.of(node)
        if known is None or not bool(known.mask.all()):
            return None
        value = known.value.expand(shape_of(node))
        self._full[node] = value
        return value

    def _placeholder(self, node: fx.Node) -> Known | None:
        if node not in self.names:
            return None
        value = self.weights[self.names[node]].detach()
        return Known(torch.ones((1,) * value.dim(), dtype=torch.bool), _double(value))

    def _call(self, node: fx.Node) -> list[Known | None]:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor | tuple | list):
            return [None]
        count = len(value) if isinstance(value, tuple | list) else 1
        kind = kind_of(node)
        if kind == "getitem":
            return [self.known[node.args[0]][node.args[1]]]  # type: ignore[index]
        rule = RULES.get(kind)
        result = rule(self, node) if rule is not None else None
        several = result if isinstance(result, list) else [result] + [None] * (count - 1)
        return [_checked(known) for known in several]


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _checked(known: Known | None) -> Known | None:
    """Without the places whose value is not a finite number; None where nothing is left."""
    if known is None:
        return None
    mask, value = known.mask, _double(known.value)
    if value.is_floating_point():
        mask = mask & value.isfinite()
    if not bool(mask.any()):
        return None
    if mask.shape == value.shape and mask.numel() > 1:
        value = torch.where(mask, value, torch.zeros((), dtype=value.dtype))
    return Known(compress(mask), compress(value))


def _elementwise(values: Values, node: fx.Node) -> Known | None:
    sources = [source for source in node.all_input_nodes if is_tensor(source)]
    name, rank = op_name(node), len(shape_of(node))
    if name in ("zeros_like", "ones_like", "full_like"):
        fill = {"zeros_like": 0.0, "ones_like": 1.0}.get(name)
        fill = float(bind(node)["fill_value"]) if fill is None else fill
        one = (1,) * rank
        return Known(torch.ones(one, dtype=torch.bool), torch.full(one, fill, dtype=torch.float64))
    known = {source: values.of(source) for source in sources}
    if all(k is None for k in known.values()):
        return None
    mask = torch.ones((1,) * rank, dtype=torch.bool)
    for k in known.values():
        mask = mask & (k.mask if k is not None else torch.zeros((), dtype=torch.bool))
    zero = _zero_of_product(name, node, known)
    if zero is not None:
        mask = mask | zero
    if not bool(mask.any()):
        return None
    operands = {s: k.value if k is not None else _nothing(s) for s, k in known.items()}
    value = run_op(node, operands, values.constant)
    if zero is not None:
        value = torch.where(zero, torch.zeros((), dtype=value.dtype), value)
    return Known(mask, value)


def _nothing(source: fx.Node) -> Tensor:
    dtype = source.meta["val"].dtype
    return torch.zeros(
        (1,) * len(shape_of(source)), dtype=torch.float64 if dtype.is_floating_point else dtype
    )


def _zero_of_product(name: str, node: fx.Node, known: Mapping[fx.Node, Known | None]) -> Tensor | None:
    """Where a product is zero whatever its other factor (which is taken to be finite)."""
    if name not in ("mul", "multiply", "div", "divide", "true_divide"):
        return None
    factors = [node.args[0]] if name not in ("mul", "multiply") else list(node.args[:2])
    zero: Tensor | None = None
    for factor in factors:
        k = known.get(factor) if isinstance(factor, fx.Node) else None
        if k is not None:
            zero = k.zero if zero is None else zero | k.zero
    return zero


def _prelu(values: Values, node: fx.Node) -> Known | None:
    arguments = bind(node)
    x, slope = values.of(arguments["self"]), values.full(arguments["weight"])
    if x is None or slope is None:
        return None
    slope = _on_channel(slope, x.value.dim())
    return Known(x.mask, torch.where(x.value > 0, x.value, x.value * slope))


def _on_channel(vector: Tensor, rank: int, axis: int = 1) -> Tensor:
    if vector.numel() == 1:
        return vector.reshape((1,) * rank)
    size = [1] * rank
    size[min(axis, rank - 1)] = -1
    return vector.reshape(size)


def _shape(values: Values, node: fx.Node) -> list[Known | None] | None:
    source = next(n for n in node.all_input_nodes if is_tensor(n))
    x = values.of(source)
    if x is None:
        return None
    full = shape_of(source)
    moved = [run_op(node, {source: part.expand(full)}, values.constant) for part in (x.mask, x.value)]
    if not isinstance(node.meta["val"], tuple | list):
        return [Known(moved[0], moved[1])]
    return [Known(mask, value) for mask, value in zip(moved[0], moved[1], strict=True)]


def _create(values: Values, node: fx.Node) -> Known:
    fill = {"zeros": 0.0, "new_zeros": 0.0, "ones": 1.0, "new_ones": 1.0}.get(op_name(node))
    fill = float(bind(node)["fill_value"]) if fill is None else fill
    one = (1,) * len(shape_of(node))
    return Known(torch.ones(one, dtype=torch.bool), torch.full(one, fill, dtype=torch.float64))


def _cat(values: Values, node: fx.Node) -> Known | None:
    arguments = bind(node)
    tensors = [t for t in arguments["tensors"] if shape_of(t) != (0,)]
    dim = arguments["dim"] % len(shape_of(node))
    return _side_by_side(values, [(t, values.of(t), shape_of(t)) for t in tensors], dim)


def _stack(values: Values, node: fx.Node) -> Known | None:
    arguments = bind(node)
    dim = arguments["dim"] % len(shape_of(node))
    parts = []
    for t in arguments["tensors"]:
        k, size = values.of(t), list(shape_of(t))
        size.insert(dim, 1)
        lifted = None if k is None else Known(k.mask.unsqueeze(dim), k.value.unsqueeze(dim))
        parts.append((t, lifted, tuple(size)))
    return _side_by_side(values, parts, dim)


def _side_by_side(
    values: Values, parts: list[tuple[fx.Node, Known | None, tuple[int, ...]]], dim: int
) -> Known | None:
    if all(known is None for _, known, _ in parts):
        return None
    masks, numbers = [], []
    for _, known, size in parts:
        one = (1,) * len(size)
        if known is None:
            known = Known(torch.zeros(one, dtype=torch.bool), torch.zeros(one, dtype=torch.float64))
        masks.append((known.mask, size))
        numbers.append((known.value.double(), size))
    return Known(_joined(masks, dim), _joined(numbers, dim))


def _joined(parts: list[tuple[Tensor, tuple[int, ...]]], dim: int) -> Tensor:
    axes = {axis for part, _ in parts for axis in range(part.dim()) if part.shape[axis] > 1} | {dim}
    return torch.cat(
        [part.expand([n if axis in axes else 1 for axis, n in enumerate(size)]) for part, size in parts], dim
    )


def _scatter(values: Values, node: fx.Node) -> Known | None:
    arguments = bind(node)
    x, src = arguments["self"], arguments["src"]
    if values.of(x) is None and values.of(src) is None:
        return None
    parts = {}
    for source in (x, src):
        known, one = values.of(source), (1,) * len(shape_of(source))
        parts[source] = known or Known(
            torch.zeros(one, dtype=torch.bool), torch.zeros(one, dtype=torch.float64)
        )
    mask = run_op(node, {s: k.mask.expand(shape_of(s)).clone() for s, k in parts.items()}, values.constant)
    value = run_op(
        node, {s: k.value.double().expand(shape_of(s)).clone() for s, k in parts.items()}, values.constant
    )
    return Known(mask, value)


def _pad(values: Values, node: fx.Node) -> Known | None:
    arguments = bind(node)
    x, amounts = arguments["self"], [int(a) for a in arguments["pad"]]
    if arguments.get("mode", "constant") != "constant":
        return None
    known, one = values.of(x), (1,) * len(shape_of(x))
    fill = arguments.get("value") or 0.0
    axes = [len(one) - 1 - pair for pair in range(len(amounts) // 2) if any(amounts[2 * pair : 2 * pair + 2])]
    if known is None:
        known = Known(torch.zeros(one, dtype=torch.bool), torch.zeros(one, dtype=torch.float64))
    uniform = bool((known.zero | ~known.mask).all()) and fill == 0
    if uniform and all(values.structure.of(x) == [] or known.mask.shape[a] == 1 for a in axes):
        structured = [a for a in axes if any(f.shape[a] > 1 for f in values.structure.of(node))]
        if not structured:
            return known  # zeros beside zeros
    grow = [
        n if axis in axes else m
        for axis, (n, m) in enumerate(zip(shape_of(x), known.mask.shape, strict=True))
    ]
    mask = torch.nn.functional.pad(known.mask.expand(grow), amounts, value=True)
    width = [
        n if axis in axes else m
        for axis, (n, m) in enumerate(zip(shape_of(x), known.value.shape, strict=True))
    ]
    value = torch.nn.functional.pad(known.value.double().expand(width), amounts, value=float(fill))
    return Known(mask, value)


def channel_vectors(known: Known | None, axis: int, size: int) -> tuple[Tensor, Tensor]:
    """Per channel: whether it is one known number, and that number (0 where it is not)."""
    if known is None:
        return torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.float64)
    rank = known.mask.dim()
    others = [a for a in range(rank) if a != axis]
    mask = known.mask.permute(axis, *others).reshape(known.mask.shape[axis], -1).all(1).expand(size)
    rows = known.value.permute(axis, *others).reshape(known.value.shape[axis], -1)
    uniform = (rows == rows[:, :1]).all(1).expand(size)
    mask = mask & uniform
    value = torch.where(mask, rows[:, 0].double().expand(size), 0.0)
    return mask, value


def padded(node: fx.Node) -> bool:
    """Whether a convolution pads with zeros."""
    padding = bind(node)["padding"]
    if isinstance(padding, str):
        kernel = shape_of(bind(node)["weight"])[2:]
        return padding == "same" and any(k > 1 for k in kernel)
    return any(int(p) != 0 for p in padding)


def _conv(values: Values, node: fx.Node) -> Known | None:
    arguments = bind(node)
    weight, groups = values.full(arguments["weight"]), int(arguments["groups"])
    if weight is None:
        return None
    transposed = kind_of(node) == "conv_transpose"
    channels = shape_of(arguments["input"])[1]
    mask, number = channel_vectors(values.of(arguments["input"]), 1, channels)
    live, total = conv_matrices(weight, groups, transposed=transposed)  # (G, N/G, C/G)
    uneven = transposed or padded(node)
    unknown = ~mask | ((number != 0) & uneven)
    dead = (live.double() @ unknown.reshape(groups, -1, 1).double()).squeeze(-1) == 0
    result = (total @ number.reshape(groups, -1, 1)).squeeze(-1).reshape(-1)
    bias = values.full(arguments["bias"]) if arguments["bias"] is not None else None
    if bias is not None:
        result = result + bias
    rank = len(shape_of(node))
    return Known(_on_channel(dead.reshape(-1), rank), _on_channel(result, rank))


def conv_matrices(weight: Tensor, groups: int, *, transposed: bool = False) -> tuple[Tensor, Tensor]:
    """Which filter reads which channel, and the sum of that kernel: (groups, filters, channels) both."""
    flat = weight.flatten(2)
    live, total = (flat != 0).any(2), flat.sum(2)
    if transposed:  # (C, N/G)
        shape = (groups, -1, weight.shape[1])
        return live.reshape(shape).transpose(1, 2), total.reshape(shape).transpose(1, 2)
    shape = (groups, -1, weight.shape[1])
    return live.reshape(shape), total.reshape(shape)


def _linear(values: Values, node: fx.Node) -> Known | None:
    arguments = bind(node)
    x, weight = values.of(arguments["input"]), values.full(arguments["weight"])
    if weight is None:
        return None
    if x is None:
        x = Known(torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.float64))
    columns = weight.shape[1]
    unknown = (~x.mask).double().expand(*x.mask.shape[:-1], columns)
    mask = (unknown @ (weight != 0).double().T) == 0
    value = x.value * x.mask
    value = value.expand(*value.shape[:-1], columns) @ weight.T
    bias = values.full(arguments["bias"]) if arguments["bias"] is not None else None
    value = value if bias is None else value + bias
    rank = len(shape_of(node))
    return Known(_raised(mask, rank), _raised(value, rank))


def _raised(array: Tensor, rank: int) -> Tensor:
    return array.reshape((1,) * (rank - array.dim()) + tuple(array.shape))


def _matmul(values: Values, node: fx.Node) -> Known | None:
    first, second = node.args[0], node.args[1]
    if not (is_tensor(first) and is_tensor(second)):
        return None
    return _product(values, first, second)  # type: ignore[arg-type]


def _product(values: Values, first: fx.Node, second: fx.Node) -> Known | None:
    labels = product_labels(first, second)
    return None if labels is None else _labelled_product(values, first, second, *labels)


def product_labels(first: fx.Node, second: fx.Node) -> tuple[str, str, str] | None:
    """A batched matrix product as labels of an einsum."""
    p, q = len(shape_of(first)), len(shape_of(second))
    if p < 2 or q < 2:
        return None
    lead = "abcdefgh"[: max(p, q) - 2]
    return lead[len(lead) - (p - 2) :] + "xy", lead[len(lead) - (q - 2) :] + "yz", lead + "xz"


def einsum_labels(node: fx.Node) -> tuple[str, str, str] | None:
    """The labels of an einsum of two operands without repeated labels; None for others."""
    arguments = bind(node)
    equation = arguments["equation"].replace(" ", "")
    if len(arguments["tensors"]) != 2 or "." in equation or "->" not in equation:
        return None
    inputs, out = equation.split("->")
    la, lb = inputs.split(",")
    plain = all(len(set(labels)) == len(labels) for labels in (la, lb, out))
    both = set(la) | set(lb)
    summed_alone = [label for label in both if label not in out and not (label in la and label in lb)]
    return (la, lb, out) if plain and not summed_alone else None


def _einsum(values: Values, node: fx.Node) -> Known | None:
    labels = einsum_labels(node)
    first, *others = bind(node)["tensors"]
    return None if labels is None else _labelled_product(values, first, others[0], *labels)


def _labelled_product(
    values: Values, first: fx.Node, second: fx.Node, la: str, lb: str, out: str
) -> Known | None:
    """Known where, for every contracted place, one factor is zero or both are known."""
    a, b = values.of(first), values.of(second)
    if a is None and b is None:
        return None
    a, b = a or _unknown(first), b or _unknown(second)
    equation = f"{la},{lb}->{out}"
    open_terms = torch.einsum(equation, (~a.zero).double(), (~b.zero).double())
    closed = torch.einsum(equation, (a.mask & ~a.zero).double(), (b.mask & ~b.zero).double())
    mask = open_terms == closed
    if not bool(mask.any()):
        return None
    x, y = a.value.double() * a.mask, b.value.double() * b.mask
    repeated = 1
    for label in set(la) & set(lb) - set(out):
        p, q = la.index(label), lb.index(label)
        if x.shape[p] == 1 and y.shape[q] == 1:
            repeated *= shape_of(first)[p]
    return Known(mask, torch.einsum(equation, x, y) * repeated)


def _unknown(node: fx.Node) -> Known:
    one = (1,) * len(shape_of(node))
    return Known(torch.zeros(one, dtype=torch.bool), torch.zeros(one, dtype=torch.float64))


def _addmm(values: Values, node: fx.Node) -> Known | None:
    arguments = bind(node)
    product, bias = _product(values, *factors(node)), values.of(arguments["self"])
    if product is None or bias is None:
        return None
    alpha, beta = float(arguments["alpha"]), float(arguments["beta"])
    rank = len(shape_of(node))
    return Known(
        product.mask & _raised(bias.mask, rank), alpha * product.value + beta * _raised(bias.value, rank)
    )


def _attention(values: Values, node: fx.Node) -> Known | None:
    """The weights of the values sum to one, so a value that is the same at all places comes through."""
    v = values.of(bind(node)["value"])
    if v is None:
        return None
    mask, value = v.mask.all(-2, keepdim=True), v.value
    if value.shape[-2] > 1:
        mask = mask & (value == value[..., :1, :]).all(-2, keepdim=True)
        value = value[..., :1, :]
    return Known(mask, value)


def _batch_norm(values: Values, node: fx.Node) -> Known | list[Known | None] | None:
    known = _fixed_norm(values, node)
    return known if op_name(node) == "batch_norm" else [known, None, None]


def _fixed_norm(values: Values, node: fx.Node) -> Known | None:
    """A norm with recorded statistics."""
    arguments = bind(node)
    x, rank = values.of(arguments["input"]), len(shape_of(arguments["input"]))
    scale, shift, mean, var = (
        None if arguments[name] is None else values.full(arguments[name])
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    if mean is None or var is None:
        return None
    one = torch.ones(1, dtype=torch.float64)
    scale = one if scale is None else scale
    shift = torch.zeros(1, dtype=torch.float64) if shift is None else shift
    factor = _on_channel(scale / torch.sqrt(var + float(arguments["eps"])), rank)
    offset = _on_channel(shift, rank) - _on_channel(mean, rank) * factor
    flat = _on_channel(scale == 0, rank)
    if x is None:
        return Known(flat, _on_channel(shift, rank).expand(flat.shape if flat.numel() > 1 else (-1,) * rank))
    return Known(x.mask | flat, torch.where(flat, _on_channel(shift, rank), x.value * factor + offset))


def _instance_norm(values: Values, node: fx.Node) -> Known | None:
    arguments = bind(node)
    if not arguments["use_input_stats"]:
        return _fixed_norm(values, node)
    x, rank, channels = values.of(arguments["input"]), len(shape_of(node)), shape_of(node)[1]
    mask, _ = channel_vectors(x, 1, channels)
    scale = None if arguments["weight"] is None else values.full(arguments["weight"])
    shift = None if arguments["bias"] is None else values.full(arguments["bias"])
    if scale is not None:
        mask = mask | (scale == 0)
    value = torch.zeros(channels, dtype=torch.float64) if shift is None else shift
    return Known(_on_channel(mask, rank), _on_channel(value, rank))


def _group_norm(values: Values, node: fx.Node) -> Known | None:
    arguments = bind(node)
    if arguments["weight"] is None:
        return None
    scale, rank = values.full(arguments["weight"]), len(shape_of(node))
    shift = None if arguments["bias"] is None else values.full(arguments["bias"])
    if scale is None:
        return None
    value = torch.zeros_like(scale) if shift is None else shift
    return Known(_on_channel(scale == 0, rank), _on_channel(value, rank))


def _weight_norm(values: Values, node: fx.Node) -> Known | None:
    arguments = bind(node)
    v, g, dim = values.full(arguments["v"]), values.full(arguments["g"]), arguments["dim"]
    if v is None or g is None:
        return None
    axes = [axis for axis in range(v.dim()) if axis != dim] if dim != -1 else list(range(v.dim()))
    norm = torch.linalg.vector_norm(v, dim=axes, keepdim=True)
    value = torch.where(norm > 0, v * (g / norm), 0.0)
    return Known(torch.ones((1,) * v.dim(), dtype=torch.bool), value)


def _window(values: Values, node: fx.Node) -> Known | None:
    arguments = bind(node)
    source = next(value for value in arguments.values() if is_tensor(value))
    x, rank = values.of(source), len(shape_of(source))
    if x is None:
        return None
    digits = [c for c in op_name(node) if c.isdigit()]
    axes = list(range(rank - int(digits[-1]), rank))
    mask, value = x.mask, x.value
    for axis in axes:
        mask = mask.all(axis, keepdim=True)
        mask = mask & (value == value.narrow(axis, 0, 1)).all(axis, keepdim=True)
        value = value.narrow(axis, 0, 1)
    if op_name(node).startswith("avg_pool") and any(arguments["padding"]):
        mask = mask & (value == 0)
    return Known(mask, value)


def _unfold(values: Values, node: fx.Node) -> Known | None:
    arguments = bind(node)
    mask, number = channel_vectors(values.of(arguments["self"]), 1, shape_of(arguments["self"])[1])
    if any(arguments["padding"]):
        mask = mask & (number == 0)
    taps = math.prod(arguments["kernel_size"])
    return Known(
        mask.repeat_interleave(taps).reshape(1, -1, 1), number.repeat_interleave(taps).reshape(1, -1, 1)
    )


def _reduce(values: Values, node: fx.Node) -> Known | None:
    name, arguments = op_name(node), bind(node)
    source = node.all_input_nodes[0]
    x, rank = values.of(source), len(shape_of(source))
    if x is None or name not in ("mean", "sum", "amax", "amin"):
        return None
    axes = sorted(reduced_axes(arguments, rank))
    mask, value, factor = x.mask, x.value.double(), 1
    for axis in axes:
        if value.shape[axis] > 1 and name == "sum":
            value = (value * mask).sum(axis, keepdim=True)
        else:
            mask = mask & (value == value.narrow(axis, 0, 1)).all(axis, keepdim=True)
            value = value.narrow(axis, 0, 1)
            factor *= shape_of(source)[axis] if name == "sum" else 1
        mask = mask.all(axis, keepdim=True)
    value = value * factor
    if len(shape_of(node)) < rank:
        left = [axis for axis in range(rank) if axis not in axes]
        mask = mask.reshape([mask.shape[axis] for axis in left])
        value = value.reshape([value.shape[axis] for axis in left])
    return Known(mask, value)


def _embedding(values: Values, node: fx.Node) -> Known | None:
    table = values.full(bind(node)["weight"])
    if table is None:
        return None
    rank = len(shape_of(node))
    return Known(_raised((table == table[:1]).all(0), rank), _raised(table[0], rank))


RULES: dict[str, Callable[[Values, fx.Node], Any]] = {
    "elementwise": _elementwise,
    "prelu": _prelu,
    "shape": _shape,
    "create": _create,
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
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    "weight_norm": _weight_norm,
    "window": _window,
    "unfold": _unfold,
    "reduce": _reduce,
    "embedding": _embedding,
}
