"""Slot rules: for each kind of op, how the facets of its operands make those of its result.

A rule takes the builder and the node and returns facets (a list of facet lists for ops with several results),
or None where it cannot say, which leaves the operands whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from sslcli.graph.contract import Link, Side, contract
from sslcli.graph.facets import Facets, axis_array, combine, covers, mix, pin_axes, tidy, varying
from sslcli.graph.ops import bind, factors, is_tensor, op_name, shape_of, where
from sslcli.graph.slots import Builder, Grouped

Result = Facets | list[Facets] | None
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def elementwise(build: Builder, node: fx.Node) -> Result:
    """Operands keep the same elements; a whole operand pins the others."""
    operands = [(build.of(source), shape_of(source)) for source in node.all_input_nodes if is_tensor(source)]
    rank = len(shape_of(node))
    return combine(build.units, operands, rank, f"{where(node)} with an operand that stays whole")


def prelu(build: Builder, node: fx.Node) -> Result:
    """One slope a channel (axis 1), or one for all."""
    arguments = bind(node)
    x, weight = arguments["self"], arguments["weight"]
    rank = len(shape_of(x))
    return _with_channel_parameters(build, node, x, [weight], min(1, rank - 1))


def shape(build: Builder, node: fx.Node) -> Result:
    """The op is applied to the units themselves."""
    tensors = [n for n in node.all_input_nodes if is_tensor(n)]
    source = tensors[0]
    name = op_name(node)
    if name == "index_select":
        build.pin(tensors[-1], f"{where(node)} uses it as an index")
        if build.constant(tensors[-1]) is None:
            return None
    elif len(tensors) > 1 and name not in ("view_as", "expand_as", "reshape_as"):
        return None
    full = shape_of(source)
    if name in _OVERLAPPING:
        dim = bind(node).get("dimension")
        axes = range(len(full)) if dim is None else [dim % len(full)]
        pin_axes(build.units, build.of(source), axes, f"{where(node)} along that axis")
    if name == "pixel_shuffle":
        build.facets[source][0] = _whole_squares(build, node, source)
    several = isinstance(node.meta["val"], tuple | list)
    results: list[Facets] = [[] for _ in node.meta["val"]] if several else [[]]
    for facet in build.of(source):
        moved = build.run(node, {source: build.units.find(facet).expand(full)})
        for into, array in zip(results, moved if several else [moved], strict=True):
            into.append(array)
    results = [tidy(build.units, facets) for facets in results]
    return results if several else results[0]


_OVERLAPPING = frozenset({"unfold", "diagonal", "take_along_dim", "rot90"})


def _whole_squares(build: Builder, node: fx.Node, source: fx.Node) -> Facets:
    """The r * r channels that make one channel of a pixel shuffle go together."""
    square = int(bind(node)["upscale_factor"]) ** 2
    axis = len(shape_of(source)) - 3
    for facet in build.of(source):
        if facet.shape[axis] > 1:
            rows = facet.movedim(axis, 0).reshape(facet.shape[axis] // square, square, -1)
            build.units.unite(rows, rows[:, :1])
    return tidy(build.units, build.of(source))


def create(build: Builder, node: fx.Node) -> Result:
    """A tensor of one number: as cuttable as a parameter."""
    size = shape_of(node)
    return [axis_array(build.units.fresh(n), axis, len(size)) for axis, n in enumerate(size) if n > 1]


def index(build: Builder, node: fx.Node) -> Result:
    """Indexing by constants moves units; indexing by data pins what varies along the indexed axes."""
    if op_name(node) == "gather":
        return _gather(build, node)
    arguments = bind(node)
    x, indices = arguments["self"], arguments["indices"]
    axes = [axis for axis, i in enumerate(indices) if i is not None]
    pin_axes(build.units, build.of(x), axes, f"{where(node)} along that axis")
    for i in indices:
        if i is not None:
            build.pin(i, f"{where(node)} uses it as an index")
    free = [facet for facet in build.of(x) if not any(facet.shape[axis] > 1 for axis in axes)]
    moved = []
    for facet in free:
        zeros = {i: torch.zeros(shape_of(i), dtype=torch.int64) for i in indices if i is not None}
        moved.append(build.run(node, {x: build.units.find(facet).expand(shape_of(x)), **zeros}))
    return tidy(build.units, moved)


def _gather(build: Builder, node: fx.Node) -> Result:
    arguments = bind(node)
    x, dim, places = arguments["self"], arguments["dim"], arguments["index"]
    dim %= len(shape_of(x))
    for axis, (have, want) in enumerate(zip(shape_of(x), shape_of(places), strict=True)):
        if axis == dim or have != want:
            pin_axes(build.units, build.of(x), [axis], f"{where(node)} along that axis")
    build.pin(places, f"{where(node)} uses it as an index")
    for facet in build.of(x):
        build.units.pin(facet, f"{where(node)} picks from it by data")
    return []


def cat(build: Builder, node: fx.Node) -> Result:
    """Units side by side along the axis; what has none there stays whole."""
    arguments = bind(node)
    tensors = [t for t in arguments["tensors"] if shape_of(t) != (0,)]
    dim = arguments["dim"] % len(shape_of(node))
    return _concatenate(build, node, [(build.of(t), shape_of(t)) for t in tensors], dim)


def stack(build: Builder, node: fx.Node) -> Result:
    """A concatenation along a new axis."""
    arguments = bind(node)
    dim = arguments["dim"] % len(shape_of(node))
    parts = []
    for t in arguments["tensors"]:
        size = list(shape_of(t))
        size.insert(dim, 1)
        parts.append(([facet.unsqueeze(dim) for facet in build.of(t)], tuple(size)))
    return _concatenate(build, node, parts, dim)


def _concatenate(
    build: Builder, node: fx.Node, parts: Sequence[tuple[Facets, tuple[int, ...]]], dim: int
) -> Facets:
    units, rank = build.units, len(shape_of(node))

    def runs(facet: Tensor, size: Sequence[int]) -> bool:
        return facet.shape[dim] > 1 or (not varying(facet) and (size[dim] == 1 or len(parts) > 1))

    others = [([f for f in facets if not runs(f, size)], _with(size, dim, 1)) for facets, size in parts]
    along = [([f for f in facets if runs(f, size)], size) for facets, size in parts]
    common = combine(units, others, rank, f"{where(node)} with an operand that stays whole")
    if not any(facets for facets, _ in along):
        return common
    pieces, axes = [], {dim}
    for facets, _ in along:
        for facet in facets:
            axes |= set(varying(facet))
    full = [size if axis in axes else 1 for axis, size in enumerate(shape_of(node))]
    for facets, size in along:
        piece_shape = _with(tuple(full), dim, size[dim])
        if not facets:
            whole = units.fresh(math.prod(piece_shape)).reshape(piece_shape)
            units.pin(whole, f"{where(node)}: this operand stays whole")
            pieces.append(whole)
            continue
        first, *more = facets
        for facet in more:
            units.pin(facet, f"{where(node)} of an operand with two structures along the axis")
        pieces.append(first.expand(piece_shape))
    return tidy(units, [torch.cat(pieces, dim), *common])


def scatter(build: Builder, node: fx.Node) -> Result:
    """A piece of the first operand is replaced by the second: both keep the same elements."""
    arguments = bind(node)
    x, src, dim = arguments["self"], arguments["src"], arguments["dim"]
    full = shape_of(x)
    dim %= len(full)
    piece_facets: Facets = []
    for facet in build.of(x):
        expanded = build.units.find(facet).expand(full)
        if op_name(node) == "select_scatter":
            piece_facets.append(expanded.select(dim, int(arguments["index"])))
        else:
            length = full[dim]
            piece_facets.append(expanded[(slice(None),) * dim + (_slice(arguments, length),)])
    reason = f"{where(node)} with an operand that stays whole"
    piece = tidy(build.units, piece_facets)
    combine(build.units, [(piece, shape_of(src)), (build.of(src), shape_of(src))], len(shape_of(src)), reason)
    return tidy(build.units, list(build.of(x)))


def _slice(arguments: dict[str, Any], length: int) -> slice:
    start, end, step = arguments["start"], arguments["end"], arguments["step"]
    return slice(start if start is not None else 0, min(end, length) if end is not None else length, step)


def pad(build: Builder, node: fx.Node) -> Result:
    """New units where there is padding; other modes than a constant pin along the padded axes."""
    arguments = bind(node)
    x, amounts = arguments["self"], [int(a) for a in arguments["pad"]]
    size, facets = shape_of(x), build.of(x)
    constant = arguments.get("mode", "constant") == "constant"
    for pair in range(len(amounts) // 2):
        axis, low, high = len(size) - 1 - pair, amounts[2 * pair], amounts[2 * pair + 1]
        if not low and not high:
            continue
        along = [facet for facet in facets if facet.shape[axis] > 1]
        if not constant or len(along) > 1 or (along and varying(along[0]) != (axis,)):
            pin_axes(build.units, facets, [axis], f"{where(node)} along that axis")
        result = []
        for facet in facets:
            result.append(_padded(build, facet, axis, low, high) if facet.shape[axis] > 1 else facet)
        facets = result
    return tidy(build.units, facets)


def _padded(build: Builder, facet: Tensor, axis: int, low: int, high: int) -> Tensor:
    def margin(width: int) -> Tensor:
        size = _with(tuple(facet.shape), axis, max(width, 0))
        return build.units.fresh(math.prod(size)).reshape(size)

    inner = facet.narrow(axis, max(-low, 0), facet.shape[axis] + min(low, 0) + min(high, 0))
    return torch.cat([margin(low), inner, margin(high)], axis)


def conv(build: Builder, node: fx.Node) -> Result:
    """Rows of the weight are the result's channels, columns the input's; groups have a rule of their own."""
    arguments = bind(node)
    x, weight, groups = arguments["input"], arguments["weight"], arguments["groups"]
    rank = len(shape_of(weight))
    batched = len(shape_of(x)) == rank
    if not batched or arguments.get("transposed"):
        return None
    channel, spatial = 1, range(2, rank)
    inputs = mix(build.units, build.of(x), [0, *spatial])
    rows = build.of(weight)
    rows = pin_axes(build.units, rows, spatial, f"kernel of {where(node)}")
    if groups > 1:
        result = _grouped(build, node, inputs, rows, groups, transposed=False)
    else:
        a = Side(inputs, shape_of(x), "ab" + _LETTERS[2:rank])
        b = Side(rows, shape_of(weight), "zb" + _LETTERS[rank : 2 * rank - 2])
        reason = f"{where(node)} reads an input that stays whole"
        result = contract(build.units, build.links, a, b, "az" + _LETTERS[2:rank], reason)
    return _plus_bias(build, node, result, arguments["bias"], channel)


def conv_transpose(build: Builder, node: fx.Node) -> Result:
    """As ``conv`` with rows and columns exchanged."""
    arguments = bind(node)
    x, weight, groups = arguments["input"], arguments["weight"], arguments["groups"]
    rank = len(shape_of(weight))
    if len(shape_of(x)) != rank:
        return None
    spatial = range(2, rank)
    inputs = mix(build.units, build.of(x), [0, *spatial])
    rows = mix(build.units, build.of(weight), spatial)
    if groups > 1:
        result = _grouped(build, node, inputs, rows, groups, transposed=True)
    else:
        a = Side(inputs, shape_of(x), "ab" + _LETTERS[2:rank])
        b = Side(rows, shape_of(weight), "bz" + _LETTERS[rank : 2 * rank - 2])
        reason = f"{where(node)} reads an input that stays whole"
        result = contract(build.units, build.links, a, b, "az" + _LETTERS[2:rank], reason)
    return _plus_bias(build, node, result, arguments["bias"], 1)


def _grouped(
    build: Builder, node: fx.Node, inputs: Facets, weight: Facets, groups: int, *, transposed: bool
) -> Facets:
    units, rank = build.units, len(shape_of(node))
    channels = _vector(build, inputs, 1, shape_of(bind(node)["input"])[1], f"{where(node)} reads it whole")
    first = _vector(
        build, weight, 0, shape_of(bind(node)["weight"])[0], f"{where(node)} has a computed weight"
    )
    for facet in weight:
        if facet.shape[1] > 1:
            units.pin(facet, GROUPED_COLUMNS)
    _same_columns(build, node, channels)
    if transposed:
        units.unite(first, channels)
        filters = units.fresh(shape_of(node)[1])
    else:
        filters = first
    weight_node = bind(node)["weight"]
    if weight_node.op != "placeholder" and shape_of(weight_node)[1] > 1:
        units.pin(filters if transposed else channels, f"{where(node)} is grouped and has a computed weight")
    ins, outs = channels.reshape(groups, -1), filters.reshape(groups, -1)
    if ins.shape[1] == 1 and outs.shape[1] == 1:
        units.unite(ins, outs)
    else:
        build.grouped.append(Grouped(node, ins, outs))
    return [axis_array(filters, 1, rank)]


def _same_columns(build: Builder, node: fx.Node, channels: Tensor) -> None:
    """The weight of a grouped convolution has no column facet: all uses of one lose the same channels."""
    weight = bind(node)["weight"]
    for other in build.grouped_uses.setdefault(weight, []):
        build.units.unite(channels, other)
    build.grouped_uses[weight].append(channels)


GROUPED_COLUMNS = "columns of a grouped convolution are cut group by group"


def _vector(build: Builder, facets: Facets, axis: int, size: int, reason: str) -> Tensor:
    """The units along one axis as a vector; fresh pinned ones where there are none."""
    along = [facet for facet in facets if facet.shape[axis] > 1]
    for facet in along[1:]:
        build.units.pin(facet, reason)
    if along:
        if varying(along[0]) == (axis,):
            return along[0].reshape(-1)
        build.units.pin(along[0], reason)
    whole = build.units.fresh(size)
    if size > 1 or not along:
        build.units.pin(whole, reason)
    return whole


def _plus_bias(build: Builder, node: fx.Node, result: Facets, bias: Any, channel: int) -> Facets:
    if bias is None:
        return result
    rank = len(shape_of(node))
    lifted = [axis_array(facet.reshape(-1), channel, rank) for facet in build.of(bias)]
    size = [1] * rank
    size[channel] = shape_of(bias)[0]
    full = [1 if axis != channel else s for axis, s in enumerate(shape_of(node))]
    combine(build.units, [(result, full), (lifted, size)], rank, f"{where(node)}: its bias stays whole")
    return tidy(build.units, result)


def linear(build: Builder, node: fx.Node) -> Result:
    """The last axis is contracted with the weight's columns."""
    arguments = bind(node)
    x, weight = arguments["input"], arguments["weight"]
    rank = len(shape_of(x))
    if len(shape_of(weight)) != 2:
        return None
    lead = _LETTERS[: rank - 1]
    a = Side(build.of(x), shape_of(x), lead + "y")
    b = Side(build.of(weight), shape_of(weight), "zy")
    reason = f"{where(node)} reads an input that stays whole"
    result = contract(build.units, build.links, a, b, lead + "z", reason)
    return _plus_bias(build, node, result, arguments["bias"], rank - 1)


def matmul(build: Builder, node: fx.Node) -> Result:
    """Batched product of two matrices; leading axes broadcast."""
    first, second = node.args[0], node.args[1]
    if not (is_tensor(first) and is_tensor(second)):
        return None
    return _product(build, node, first, second)


def addmm(build: Builder, node: fx.Node) -> Result:
    """A product plus a bias that broadcasts."""
    arguments = bind(node)
    product = _product(build, node, *factors(node))
    if product is None:
        return None
    bias, rank = arguments["self"], len(shape_of(node))
    reason = f"{where(node)} with an operand that stays whole"
    return combine(build.units, [(product, shape_of(node)), (build.of(bias), shape_of(bias))], rank, reason)


def _product(build: Builder, node: fx.Node, first: Any, second: Any) -> Facets | None:
    p, q = len(shape_of(first)), len(shape_of(second))
    if p < 2 or q < 2:
        return None
    lead = _LETTERS[: max(p, q) - 2]
    a = Side(build.of(first), shape_of(first), lead[len(lead) - (p - 2) :] + "xy")
    b = Side(build.of(second), shape_of(second), lead[len(lead) - (q - 2) :] + "yz")
    return contract(
        build.units, build.links, a, b, lead + "xz", f"{where(node)} with an operand that stays whole"
    )


def einsum(build: Builder, node: fx.Node) -> Result:
    """Two operands, no repeated label within one and no ellipsis."""
    arguments = bind(node)
    equation, tensors = arguments["equation"].replace(" ", ""), arguments["tensors"]
    if len(tensors) != 2 or "." in equation or "->" not in equation:
        return None
    inputs, out = equation.split("->")
    la, lb = inputs.split(",")
    if any(len(set(labels)) != len(labels) for labels in (la, lb, out)):
        return None
    a = Side(build.of(tensors[0]), shape_of(tensors[0]), la)
    b = Side(build.of(tensors[1]), shape_of(tensors[1]), lb)
    return contract(build.units, build.links, a, b, out, f"{where(node)} with an operand that stays whole")


def attention(build: Builder, node: fx.Node) -> Result:
    """Queries and keys are contracted over the width, the weights with the values over the places."""
    arguments = bind(node)
    q, k, v = arguments["query"], arguments["key"], arguments["value"]
    rank = len(shape_of(q))
    if arguments.get("enable_gqa") or len(shape_of(k)) != rank or len(shape_of(v)) != rank:
        return None
    lead = _LETTERS[: rank - 2]
    reason = f"{where(node)} with an operand that stays whole"
    pin_axes(build.units, build.of(k), [rank - 2], f"{where(node)}: places of the keys")
    pin_axes(build.units, build.of(v), [rank - 2], f"{where(node)}: places of the values")
    scores = contract(
        build.units,
        build.links,
        Side(build.of(q), shape_of(q), lead + "ly"),
        Side(build.of(k), shape_of(k), lead + "sy"),
        lead + "ls",
        reason,
    )
    build.heads += [facet.reshape(-1) for facet in scores if varying(facet) and facet.dim() > 2]
    mask = arguments.get("attn_mask")
    score_shape = (*shape_of(q)[:-1], shape_of(k)[-2])
    if mask is not None:
        scores = combine(build.units, [(scores, score_shape), (build.of(mask), shape_of(mask))], rank, reason)
    return contract(
        build.units,
        build.links,
        Side(scores, score_shape, lead + "ls"),
        Side(build.of(v), shape_of(v), lead + "sz"),
        lead + "lz",
        reason,
    )


def batch_norm(build: Builder, node: fx.Node) -> Result:
    """Channel by channel, with up to four parameters a channel."""
    arguments = bind(node)
    parameters = [arguments[name] for name in ("weight", "bias", "running_mean", "running_var")]
    facets = _with_channel_parameters(build, node, arguments["input"], parameters, 1)
    return facets if op_name(node) == "batch_norm" else [facets, [], []]


def instance_norm(build: Builder, node: fx.Node) -> Result:
    """As batch norm; what varies over the places it averages is all or nothing."""
    arguments = bind(node)
    x = arguments["input"]
    build.facets[x][0] = mix(build.units, build.of(x), range(2, len(shape_of(x))))
    parameters = [arguments[name] for name in ("weight", "bias", "running_mean", "running_var")]
    return _with_channel_parameters(build, node, x, parameters, 1)


def group_norm(build: Builder, node: fx.Node) -> Result:
    """The unit is a whole group of channels."""
    arguments = bind(node)
    x, groups = arguments["input"], arguments["num_groups"]
    facets = mix(build.units, build.of(x), range(2, len(shape_of(x))))
    for facet in facets:
        if facet.shape[1] > 1:
            if varying(facet) != (1,):
                build.units.pin(facet, f"{where(node)} over several structures")
                continue
            members = facet.reshape(groups, -1)
            build.units.unite(members, members[:, :1])
    build.facets[x][0] = tidy(build.units, facets)
    return _with_channel_parameters(build, node, x, [arguments["weight"], arguments["bias"]], 1)


def layer_norm(build: Builder, node: fx.Node) -> Result:
    """Pins the axes that it normalises over."""
    arguments = bind(node)
    x, count = arguments["input"], len(arguments["normalized_shape"])
    rank = len(shape_of(x))
    axes = range(rank - count, rank)
    pin_axes(build.units, build.of(x), axes, f"{where(node)} normalises over it")
    operands = [(build.of(x), shape_of(x))]
    for name in ("weight", "bias"):
        parameter = arguments.get(name)
        if parameter is not None:
            operands.append((build.of(parameter), shape_of(parameter)))
    return combine(build.units, operands, rank, f"{where(node)} normalises over it")


def _with_channel_parameters(
    build: Builder, node: fx.Node, x: fx.Node, parameters: Sequence[Any], channel: int
) -> Facets:
    rank = len(shape_of(x))
    operands = [(build.of(x), shape_of(x))]
    for parameter in parameters:
        if parameter is not None and shape_of(parameter) and shape_of(parameter)[0] > 1:
            size = [1] * rank
            size[channel] = shape_of(parameter)[0]
            operands.append(
                ([axis_array(f.reshape(-1), channel, rank) for f in build.of(parameter)], tuple(size))
            )
    return combine(build.units, operands, rank, f"{where(node)} with an operand that stays whole")


def weight_norm(build: Builder, node: fx.Node) -> Result:
    """The computed weight has the facets of v; g goes with v along its axis."""
    arguments = bind(node)
    v, g = arguments["v"], arguments["g"]
    return combine(
        build.units,
        [(build.of(v), shape_of(v)), (build.of(g), shape_of(g))],
        len(shape_of(v)),
        f"{where(node)} with an operand that stays whole",
    )


def window(build: Builder, node: fx.Node) -> Result:
    """All or nothing along the axes that the window runs over."""
    arguments = bind(node)
    x = next(value for value in arguments.values() if is_tensor(value))
    rank = len(shape_of(x))
    digits = [c for c in op_name(node) if c.isdigit()]
    spatial = range(rank - int(digits[-1]), rank)
    facets = mix(build.units, build.of(x), spatial)
    value = node.meta["val"]
    return [facets for _ in value] if isinstance(value, tuple | list) else facets


def unfold(build: Builder, node: fx.Node) -> Result:
    """(B, C, H, W) -> (B, C * taps, places): the taps of a channel stand side by side."""
    arguments = bind(node)
    x = arguments["self"]
    if len(shape_of(x)) != 4:
        return None
    taps = math.prod(arguments["kernel_size"])
    facets = mix(build.units, build.of(x), (0, 2, 3))
    result = [
        facet.reshape(-1).repeat_interleave(taps).reshape(1, -1, 1) for facet in facets if covers([facet], 1)
    ]
    return tidy(build.units, result)


def along(build: Builder, node: fx.Node) -> Result:
    """Mixes along one axis and keeps it: pinned there."""
    arguments = bind(node)
    x = arguments["self"]
    dim = arguments["dim"] % max(len(shape_of(x)), 1)
    pin_axes(build.units, build.of(x), [dim], f"{where(node)} mixes along that axis")
    facets = list(build.of(x))
    if "softmax" in op_name(node):
        build.heads += [
            facet.reshape(-1) for facet in facets if len(varying(facet)) == 1 and facet.shape[dim] == 1
        ]
    value = node.meta["val"]
    return [facets for _ in value] if isinstance(value, tuple | list) else facets


def reduce(build: Builder, node: fx.Node) -> Result:
    """Folds axes away; a sum may lose zeros, everything else is pinned along those axes."""
    arguments = bind(node)
    x = node.all_input_nodes[0]
    rank = len(shape_of(x))
    axes = reduced_axes(arguments, rank)
    keep = bool(arguments.get("keepdim", False)) or len(shape_of_first(node)) == rank
    result: Facets = []
    for facet in build.of(x):
        ended = [axis for axis in varying(facet) if axis in axes]
        if ended and op_name(node) not in ("sum", "nansum"):
            build.units.pin(facet, f"{where(node)} over that axis")
        left = [axis for axis in varying(facet) if axis not in axes]
        if ended and left:
            reduced = _linked_rest(build, facet, left)
        elif ended:
            continue
        else:
            reduced = facet
        result.append(reduced if keep else _without(reduced, axes))
    result = tidy(build.units, result)
    value = node.meta["val"]
    return [result for _ in value] if isinstance(value, tuple | list) else result


def shape_of_first(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's only or first value."""
    value = node.meta["val"]
    first = value[0] if isinstance(value, tuple | list) else value
    return tuple(first.shape)


def reduced_axes(arguments: dict[str, Any], rank: int) -> set[int]:
    """The axes that a reduction folds away."""
    dim = arguments.get("dim")
    if dim is None or dim == []:
        return set(range(rank))
    return {d % rank for d in ([dim] if isinstance(dim, int) else dim)} if rank else set()


def _linked_rest(build: Builder, facet: Tensor, left: list[int]) -> Tensor:
    rest = [axis for axis in range(facet.dim()) if axis not in left]
    size = [facet.shape[axis] if axis in left else 1 for axis in range(facet.dim())]
    rows = facet.permute(*left, *rest).reshape(math.prod(size), -1)
    new = build.units.fresh(len(rows))
    build.links.append(Link((rows, new.reshape(-1, 1))))
    return new.reshape(size)


def _without(facet: Tensor, axes: set[int]) -> Tensor:
    return facet.reshape([size for axis, size in enumerate(facet.shape) if axis not in axes])


def embedding(build: Builder, node: fx.Node) -> Result:
    """The table's columns are the last axis of the result; its rows are picked by data."""
    arguments = bind(node)
    table, places = arguments["weight"], arguments["indices"]
    pin_axes(build.units, build.of(table), [0], f"{where(node)} picks rows by data")
    rank = len(shape_of(places)) + 1
    return [axis_array(f.reshape(-1), rank - 1, rank) for f in build.of(table) if f.shape[1] > 1]


def _with(size: Sequence[int], axis: int, value: int) -> tuple[int, ...]:
    changed = list(size)
    changed[axis] = value
    return tuple(changed)


RULES: dict[str, Callable[[Builder, fx.Node], Any]] = {
    "elementwise": elementwise,
    "prelu": prelu,
    "shape": shape,
    "create": create,
    "index": index,
    "cat": cat,
    "stack": stack,
    "scatter": scatter,
    "pad": pad,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "linear": linear,
    "matmul": matmul,
    "addmm": addmm,
    "einsum": einsum,
    "attention": attention,
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "weight_norm": weight_norm,
    "window": window,
    "unfold": unfold,
    "along": along,
    "reduce": reduce,
    "embedding": embedding,
}
