"""Removal: slice the weights, write the new sizes, drop what nobody reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from sslcli.errors import GraphError
from sslcli.graph.ops import bind, is_tensor, kind_of, layer_of, op_name, shape_of
from sslcli.graph.program import Program, rebuild
from sslcli.surgery.cut import Cut, kept_groups, taken
from sslcli.surgery.fold import Folded, fold
from sslcli.surgery.known import channel_vectors
from sslcli.surgery.reshape import REWRITES, Rewriter, changed, create, scatter
from sslcli.surgery.reshape import pad as rewrite_pad

aten = torch.ops.aten
KeptAxes = dict[int, list[int] | list[list[int]]]


_STORED = "_value"  # ends the name of a tensor that was computed and is now stored, but for a number
STORED = re.compile(_STORED + r"(_\d+)?$")


@dataclass(frozen=True)
class Shrunk:
    """A smaller program and what it kept of the old one.

    Attributes:
        program: the smaller network.
        kept: per weight that changed, the kept indices by axis (axis 1 of a grouped convolution's weight:
            one list a group); None for a weight that went entirely.
        added: weights that the old network did not have, with their shapes.
    """

    program: Program
    kept: dict[str, KeptAxes | None]
    added: dict[str, tuple[int, ...]]


def shrink(found: Cut) -> Shrunk:
    """Remove from a program all that a cut does not keep.

    Raises:
        GraphError: no output depends on the input any more, or an op cannot be written for its new sizes.
    """
    if found.dead:
        raise GraphError(
            "every path from the input to the output is zero: nothing of the network would be left",
            "lower the strengths or the threshold",
        )
    folded = fold(found)
    rewriter = Rewriter(found)
    read = _read(rewriter)
    for old in found.structure.nodes:
        if old.op == "call_function" and old in read:
            _rewrite(rewriter, old, folded)
    inputs = set(rewriter.program.inputs)
    for old in found.structure.nodes:
        if old.op == "call_function" and is_tensor(old) and found.is_needed(old):
            _use_constant(rewriter, old, inputs, folded)
    kept = _weights(rewriter, folded)
    added = {
        name: tuple(value.shape)
        for name, value in rewriter.weights.items()
        if name not in found.values.weights
    }
    _drop_unread(rewriter)
    present = _present(rewriter)
    kept |= {name: None for name in found.values.weights if name not in present}
    weights = {name: tensor for name, tensor in rewriter.weights.items() if name in present}
    program = rebuild(rewriter.program, rewriter.graph, weights)
    return Shrunk(program, kept, {name: shape for name, shape in added.items() if name in present})


def _read(rewriter: Rewriter) -> set[fx.Node]:
    """Every node that the result will hold.

    Not only those that are needed: an operand that nobody needs is read still where it is joined to one that
    is made of the same units.
    """
    found, read = rewriter.found, set[fx.Node]()
    for node in reversed(found.structure.nodes):
        if node.op != "output" and not found.is_needed(node) and node not in read:
            continue
        read.add(node)
        for operand in _operands(rewriter, node):
            if not is_tensor(operand) or 0 not in found.size(operand):
                read.add(operand)
    return read


def _operands(rewriter: Rewriter, node: fx.Node) -> list[fx.Node]:
    """The nodes that a node will read."""
    if kind_of(node) not in ("cat", "stack"):
        return node.all_input_nodes
    arguments = bind(node)
    dim = arguments["dim"] % len(shape_of(node))
    if kind_of(node) == "cat":
        return _joined(rewriter, node, arguments["tensors"], dim)
    kept = rewriter.kept(node).get(dim)
    return [arguments["tensors"][i] for i in (range(shape_of(node)[dim]) if kept is None else kept.tolist())]


def _rewrite(rewriter: Rewriter, old: fx.Node, folded: Folded) -> None:
    kind = kind_of(old)
    if kind in ("conv", "conv_transpose"):
        _conv(rewriter, old, folded)
    elif kind == "linear" and old in folded.new_bias:
        _new_bias(rewriter, old, folded.new_bias[old], 2)
    elif not changed(rewriter, old):
        return
    elif kind == "shape":
        REWRITES[op_name(old)](rewriter, old)
    elif kind == "cat":
        _cat(rewriter, old)
    elif kind == "stack":
        _stack(rewriter, old)
    elif kind == "scatter":
        scatter(rewriter, old)
    elif kind == "pad":
        rewrite_pad(rewriter, old)
    elif kind == "create":
        create(rewriter, old)
    elif kind == "group_norm":
        _group_norm(rewriter, old)
    elif kind == "attention":
        _attention(rewriter, old)


def _set(rewriter: Rewriter, old: fx.Node, name: str, value: Any) -> None:
    """Set an argument of a node's copy by the name in its schema."""
    node = rewriter.new[old]
    arguments = old.target._schema.arguments  # type: ignore[union-attr]
    position = [argument.name for argument in arguments].index(name)
    if arguments[position].kwarg_only:
        node.update_kwarg(name, value)
        return
    bound = bind(old)
    args = list(node.args)
    while len(args) <= position:
        args.append(bound[arguments[len(args)].name])
    args[position] = value
    node.args = tuple(args)


def _conv(rewriter: Rewriter, old: fx.Node, folded: Folded) -> None:
    groups = int(bind(old)["groups"])
    if groups > 1 and changed(rewriter, old):
        _set(rewriter, old, "groups", max(len(kept_groups(old, rewriter.found)), 1))
    if old in folded.new_bias:
        _new_bias(rewriter, old, folded.new_bias[old], 1)


def _new_bias(rewriter: Rewriter, old: fx.Node, value: Tensor, axis: int) -> None:
    axis = axis if kind_of(old) != "linear" else len(shape_of(old)) - 1
    kept = rewriter.kept(old).get(axis)
    value = value if kept is None else value[kept]
    weight = rewriter.program.names()[bind(old)["weight"]]
    value = value.to(rewriter.found.values.weights[weight].dtype)
    name = weight.removesuffix("weight") + "bias"
    _set(rewriter, old, "bias", rewriter.constant(name, value, InputKind.PARAMETER))


def _cat(rewriter: Rewriter, old: fx.Node) -> None:
    arguments = bind(old)
    dim = arguments["dim"] % len(shape_of(old))
    tensors = _operands(rewriter, old)
    if len(tensors) == 1:
        rewriter.new[old].replace_all_uses_with(rewriter.new[tensors[0]])
        rewriter.new[old] = rewriter.new[tensors[0]]
    elif len(tensors) < len(arguments["tensors"]):
        rewriter.replace(old, aten.cat.default, ([rewriter.new[t] for t in tensors], dim))


def _joined(rewriter: Rewriter, old: fx.Node, tensors: list[fx.Node], dim: int) -> list[fx.Node]:
    """The operands of a concatenation of which something is left in it (an axis of one knows no units)."""
    places = rewriter.kept(old).get(dim)
    start, left = 0, []
    for tensor in tensors:
        end = start + shape_of(tensor)[dim]
        if places is None or bool(((places >= start) & (places < end)).any()):
            left.append(tensor)
        start = end
    return left


def _stack(rewriter: Rewriter, old: fx.Node) -> None:
    arguments = bind(old)
    dim = arguments["dim"] % len(shape_of(old))
    if dim in rewriter.kept(old):
        tensors = [rewriter.new[tensor] for tensor in _operands(rewriter, old)]
        rewriter.replace(old, aten.stack.default, (tensors, dim))


def _group_norm(rewriter: Rewriter, old: fx.Node) -> None:
    groups, channels = int(bind(old)["num_groups"]), shape_of(old)[1]
    left = rewriter.found.size(old)[1]
    _set(rewriter, old, "num_groups", left * groups // channels)


def _attention(rewriter: Rewriter, old: fx.Node) -> None:
    arguments = bind(old)
    if arguments.get("scale") is None:
        _set(rewriter, old, "scale", shape_of(arguments["query"])[-1] ** -0.5)


def _use_constant(rewriter: Rewriter, old: fx.Node, inputs: set[fx.Node], folded: Folded) -> None:
    """Let readers read a known value in place of its computation; ``x + 0`` becomes ``x``."""
    found = rewriter.found
    if not found.is_constant(old) or _only_weights(old, inputs) or 0 in found.size(old):
        return
    known = found.values.of(old)
    assert known is not None
    value = taken(known.value, found.of(old))
    node: fx.Node | None = None
    for user in list(old.users):
        if not is_tensor(user) or found.is_constant(user) or not found.is_needed(user):
            continue
        other = _other_operand(found, user, old)
        if other is not None and bool((value == 0).all()) and op_name(user) in ("add", "sub"):
            rewriter.new[user].replace_all_uses_with(rewriter.new[other])
            rewriter.new[user] = rewriter.new[other]
            continue
        if node is None:
            node = _constant_node(rewriter, old, value, folded)
        if other is not None or (kind_of(user) == "elementwise" and _keeps_shape(found, user, old)):
            rewriter.new[user].replace_input_with(rewriter.new[old], node)
        else:
            here = rewriter.new[user]
            with rewriter.graph.inserting_before(here):
                full = _expanded(rewriter, old, node)
            here.replace_input_with(rewriter.new[old], full)


def _other_operand(found: Cut, user: fx.Node, operand: fx.Node) -> fx.Node | None:
    """The other operand of a sum of two tensors of which one is ``operand``, if it has the sum's shape."""
    if op_name(user) not in ("add", "sub") or len(user.args) < 2:
        return None
    first, second = user.args[0], user.args[1]
    if not (is_tensor(first) and is_tensor(second)) or first is second:
        return None
    if op_name(user) == "sub" and second is not operand:
        return None
    other = second if first is operand else first
    same = shape_of(other) == shape_of(user) and other.meta["val"].dtype == user.meta["val"].dtype  # type: ignore[arg-type,union-attr]
    return other if same else None  # type: ignore[return-value]


def _keeps_shape(found: Cut, user: fx.Node, operand: fx.Node) -> bool:
    return any(
        is_tensor(s) and s is not operand and shape_of(s) == shape_of(user) for s in user.all_input_nodes
    )


def _only_weights(node: fx.Node, inputs: set[fx.Node]) -> bool:
    """Whether a node is computed from weights alone."""
    seen, stack = set[fx.Node](), [node]
    while stack:
        current = stack.pop()
        if current in inputs:
            return False
        if current not in seen:
            seen.add(current)
            stack.extend(
                source
                for source in current.all_input_nodes
                if isinstance(source.meta.get("val"), Tensor | tuple | list)
            )
    return True


def _constant_node(rewriter: Rewriter, old: fx.Node, value: Tensor, folded: Folded) -> fx.Node:
    """A weight with a known value: the bias of the layer that made it where that fits, else a new buffer."""
    dtype = old.meta["val"].dtype
    bias = (
        bind(old).get("bias") if kind_of(old) in ("conv", "conv_transpose", "linear", "batch_norm") else None
    )
    axis = len(shape_of(old)) - 1 if kind_of(old) == "linear" else 1
    along = [a for a, size in enumerate(value.shape) if size > 1]
    names = rewriter.program.names()
    if bias in names and len(bias.users) == 1 and along in ([], [axis]):
        _, number = channel_vectors(rewriter.found.values.of(old), axis, shape_of(old)[axis])
        folded.weights[names[bias]] = number
        shape = [-1 if a == axis else 1 for a in range(len(shape_of(old)))]
        with rewriter.graph.inserting_before(rewriter.new[old]):
            return rewriter.graph.call_function(aten.view.default, (rewriter.new[bias], shape))
    layer = layer_of(old)
    name = f"{layer}.{old.name}{_STORED}" if layer else f"{old.name}{_STORED}"
    return rewriter.constant(name.replace(".", "_"), value.to(dtype).contiguous())


def _expanded(rewriter: Rewriter, old: fx.Node, node: fx.Node) -> fx.Node:
    sizes: list[Any] = list(rewriter.found.size(old))
    for axis, size in enumerate(old.meta["val"].shape):
        if isinstance(size, torch.SymInt):
            sizes[axis] = _batch_size(rewriter)
    return rewriter.graph.call_function(aten.expand.default, (node, sizes))


def _batch_size(rewriter: Rewriter) -> fx.Node:
    source = next(n for n in rewriter.program.inputs if is_tensor(n) and shape_of(n))
    return rewriter.graph.call_function(aten.sym_size.int, (rewriter.new[source], 0))


def _weights(rewriter: Rewriter, folded: Folded) -> dict[str, KeptAxes | None]:
    """Slice every weight; return the kept indices of those that change."""
    found, result = rewriter.found, dict[str, KeptAxes | None]()
    for node, name in rewriter.program.names().items():
        original = found.values.weights[name]
        value = folded.weights.get(name, original).detach()
        axes = found.of(node)
        grouped = _grouped_user(node) if axes or _reads_cut(found, node) else None
        kept: KeptAxes = {axis: places.tolist() for axis, places in axes.items()}
        if grouped is not None:
            value, columns = _grouped_weight(found, grouped, value)
            if columns is not None:
                kept[1] = columns
        else:
            value = taken(value, axes)
        if name in folded.weights or kept:
            value = value.to(original.dtype).contiguous().clone()
        rewriter.weights[name] = _rescaled(rewriter, node, value, original)
        if kept:
            result[name] = kept
    for alias, name in rewriter.program.tied.items():
        rewriter.weights[alias] = rewriter.weights[name]
        result.pop(alias, None)
        if name in result:
            result[alias] = result[name]
    return result


def _rescaled(rewriter: Rewriter, node: fx.Node, value: Tensor, original: Tensor) -> Tensor:
    """The g of a weight norm, so that cut columns of v leave the others as they were."""
    for user in node.users:
        if kind_of(user) != "weight_norm" or bind(user)["g"] is not node:
            continue
        v, dim = bind(user)["v"], bind(user)["dim"]
        full = rewriter.found.values.full(v)
        if full is None:
            continue
        axes = [axis for axis in range(full.dim()) if axis != dim] if dim != -1 else list(range(full.dim()))
        before = torch.linalg.vector_norm(full, dim=axes, keepdim=True)
        after = torch.linalg.vector_norm(taken(full, rewriter.kept(v)), dim=axes, keepdim=True)
        before = taken(before, {a: k for a, k in rewriter.kept(v).items() if a not in axes})
        factor = torch.where(before > 0, after / before, 1.0)
        value = (value.double() * factor.reshape(value.shape if value.dim() == factor.dim() else ())).to(
            original.dtype
        )
    return value


def _reads_cut(found: Cut, node: fx.Node) -> bool:
    return any(kind_of(user) in ("conv", "conv_transpose") for user in node.users)


def _grouped_user(node: fx.Node) -> fx.Node | None:
    """The grouped convolution whose weight a placeholder is."""
    for user in node.users:
        if kind_of(user) in ("conv", "conv_transpose"):
            arguments = bind(user)
            if arguments["weight"] is node and int(arguments["groups"]) > 1:
                return user
    return None


def _grouped_weight(found: Cut, node: fx.Node, value: Tensor) -> tuple[Tensor, list[list[int]] | None]:
    """Rows as they are kept, columns group by group; the columns kept in each group that stays."""
    arguments = bind(node)
    groups, transposed = int(arguments["groups"]), kind_of(node) == "conv_transpose"
    inputs = found.of(arguments["input"]).get(1, torch.arange(shape_of(arguments["input"])[1]))
    outputs = found.of(node).get(1, torch.arange(shape_of(node)[1]))
    rows, columns = (inputs, outputs) if transposed else (outputs, inputs)
    height, width = len(value) // groups, value.shape[1]
    parts, lists = [], []
    for group in kept_groups(node, found):
        mine = rows[(rows >= group * height) & (rows < (group + 1) * height)]
        inside = columns[(columns >= group * width) & (columns < (group + 1) * width)] - group * width
        parts.append(value[mine][:, inside])
        lists.append(inside.tolist())
    whole = all(len(inside) == width for inside in lists)
    if not parts:
        return value[:0], None
    return torch.cat(parts), None if whole else lists


def _drop_unread(rewriter: Rewriter) -> None:
    """Erase nodes without users, last first, and the weights that only they read."""
    read_before = {node for node in rewriter.program.names() if node.users}
    for node in reversed(list(rewriter.graph.nodes)):
        if node.op == "call_function" and not node.users:
            rewriter.graph.erase_node(node)
    gone: set[str] = set()
    for old, name in rewriter.program.names().items():
        if old in read_before and not rewriter.new[old].users:
            rewriter.graph.erase_node(rewriter.new[old])
            gone.add(name)
    for old, name in rewriter.program.names().items():
        counter = name.endswith("num_batches_tracked")
        if rewriter.program.tied.get(name) in gone or (
            counter and name.removesuffix("num_batches_tracked") + "running_mean" in gone
        ):
            rewriter.graph.erase_node(rewriter.new[old])


def _present(rewriter: Rewriter) -> set[str]:
    names = {rewriter.new[old]: name for old, name in rewriter.program.names().items()}
    present = {names[node] for node in rewriter.graph.nodes if node in names}
    added = {node.meta["sslcli_weight"][1] for node in rewriter.graph.nodes if "sslcli_weight" in node.meta}
    return present | added
