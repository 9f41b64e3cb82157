"""Rewrites that make a traced graph easier to cut and change no output.

1. A chain of views and transposes that only moves the places of one axis (a channel shuffle) becomes an
   ``index_select``; after a cut it is written as a chain again where the groups that are left are equal.
2. A gated unit (glu) becomes its split, sigmoid and product.
"""

from __future__ import annotations

import operator

import torch
from torch import fx
from torch.export.graph_signature import InputKind

from sslcli.graph.ops import bind, is_tensor, kind_of, op_name, shape_of
from sslcli.graph.program import Program, add_weight, rebuild
from sslcli.graph.slots import run_op

aten = torch.ops.aten
_MOVES = frozenset(
    {"view", "_unsafe_view", "reshape", "unflatten", "permute", "transpose", "contiguous", "clone", "flatten"}
)


def normalise(program: Program) -> Program:
    """The same network, with shuffles as indices and gated units written out."""
    graph = program.copy_graph()
    weights = dict(program.weights())
    found = _shuffles(graph, weights)
    found = _gates(graph) or found
    found = _indices(graph, program.names()) or found
    if not found:
        return program
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users:
            graph.erase_node(node)
    return rebuild(program, graph, weights)


def _shuffles(graph: fx.Graph, weights: dict[str, torch.Tensor]) -> bool:
    found = False
    for node in list(graph.nodes):
        if node.op != "call_function" or op_name(node) not in ("view", "reshape", "_unsafe_view", "flatten"):
            continue
        chain = _chain(node)
        if chain is None:
            continue
        source, steps = chain
        moved = _moved_axis(source, steps)
        if moved is None:
            continue
        axis, places = moved
        name = f"{node.name}_index"
        weights[name] = places
        with graph.inserting_before(node):
            index = add_weight(graph, name, places, kind=InputKind.CONSTANT_TENSOR)
            shuffle = graph.call_function(aten.index_select.default, (source, axis, index))
        shuffle.meta = dict(node.meta)
        node.replace_all_uses_with(shuffle)
        found = True
    return found


def _chain(node: fx.Node) -> tuple[fx.Node, list[fx.Node]] | None:
    """The moves that end in ``node`` and the tensor of the same shape that they start from."""
    steps, current = [node], node.args[0]
    while isinstance(current, fx.Node) and is_tensor(current):
        if len(steps) > 2 and current.meta["val"].shape == node.meta["val"].shape:
            if any(op_name(step) in ("transpose", "permute") for step in steps):
                return current, steps[::-1]
            return None
        movable = current.op == "call_function" and op_name(current) in _MOVES and len(current.users) == 1
        if not movable or len(steps) > 6:
            return None
        steps.append(current)
        current = current.args[0]
    return None


def _moved_axis(source: fx.Node, steps: list[fx.Node]) -> tuple[int, torch.Tensor] | None:
    size = shape_of(source)
    for axis in range(1, len(size)):
        vector = torch.arange(size[axis]).reshape([-1 if a == axis else 1 for a in range(len(size))])
        value = vector.expand(size)
        for step in steps:
            value = run_op(step, {step.args[0]: value}, lambda _: None)  # type: ignore[dict-item]
        places = value.movedim(axis, 0).reshape(size[axis], -1)
        if not bool((places == places[:, :1]).all()):
            continue
        if torch.equal(places[:, 0], torch.arange(size[axis])):
            continue
        return (axis, places[:, 0].clone()) if _others_stay(size, axis, steps) else None
    return None


def _others_stay(size: tuple[int, ...], moved: int, steps: list[fx.Node]) -> bool:
    """Whether every other axis comes out as it went in."""
    for axis in range(len(size)):
        if axis == moved:
            continue
        vector = torch.arange(size[axis]).reshape([-1 if a == axis else 1 for a in range(len(size))])
        value = vector.expand(size)
        for step in steps:
            value = run_op(step, {step.args[0]: value}, lambda _: None)  # type: ignore[dict-item]
        if not torch.equal(value, vector.expand(size)):
            return False
    return True


def _indices(graph: fx.Graph, names: dict[fx.Node, str]) -> bool:
    """``x[:, [2, 0]]``: one constant list along one axis is an ``index_select``."""
    weights = {node.name for node in names}
    found = False
    for node in list(graph.nodes):
        if node.op != "call_function" or op_name(node) != "index":
            continue
        arguments = bind(node)
        given = [(axis, i) for axis, i in enumerate(arguments["indices"]) if i is not None]
        if len(given) != 1:
            continue
        axis, places = given[0]
        plain = (
            places.name in weights
            and places.meta["val"].dtype == torch.int64
            and places.meta["val"].dim() == 1
        )
        if plain:
            with graph.inserting_before(node):
                chosen = graph.call_function(aten.index_select.default, (arguments["self"], axis, places))
            chosen.meta = dict(node.meta)
            node.replace_all_uses_with(chosen)
            found = True
    return found


def _gates(graph: fx.Graph) -> bool:
    found = False
    for node in list(graph.nodes):
        if node.op != "call_function" or kind_of(node) != "unknown" or op_name(node) != "glu":
            continue
        arguments = bind(node)
        x, dim = arguments["self"], arguments["dim"]
        half = shape_of(x)[dim] // 2
        with graph.inserting_before(node):
            pieces = graph.call_function(aten.split_with_sizes.default, (x, [half, half], dim))
            left = graph.call_function(operator.getitem, (pieces, 0))
            right = graph.call_function(operator.getitem, (pieces, 1))
            gate = graph.call_function(aten.sigmoid.default, (right,))
            result = graph.call_function(aten.mul.Tensor, (left, gate))
        for new in (pieces, left, right, gate, result):
            new.meta = {key: value for key, value in node.meta.items() if key != "val"}
        node.replace_all_uses_with(result)
        found = True
    return found
