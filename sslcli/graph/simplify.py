"""Simplifications of an exported graph that change no value: regions inlined, idle nodes dropped."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from sslcli.graph.nodes import insert, op_name, schema_name, slice_range

aten = torch.ops.aten
ASSERTIONS = frozenset({"aten::_assert_tensor_metadata", "aten::_assert_scalar", "aten::_assert_async"})
WHOLE = 9223372036854775807


def inline_regions(graph_module: fx.GraphModule) -> None:
    """Inline the sub-graphs that ``torch.no_grad`` and a disabled ``torch.autocast`` leave behind."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        region = _region(graph_module, node)
        if region is None:
            continue
        submodule, inputs, cut_gradient = region
        inline_regions(submodule)
        with graph.inserting_before(node):
            placeholders = [n for n in submodule.graph.nodes if n.op == "placeholder"]
            mapping = dict(zip(placeholders, inputs, strict=True))
            outputs: Any = graph.graph_copy(submodule.graph, mapping)
            if cut_gradient:
                outputs = fx.node.map_arg(outputs, lambda n: _detached(graph, n))
        for user in list(node.users):
            user.replace_all_uses_with(outputs[user.args[1]])
            graph.erase_node(user)
        holder = node.args[_submodule_position(node)]
        graph.erase_node(node)
        if not holder.users:
            graph.erase_node(holder)


def _detached(graph: fx.Graph, node: fx.Node) -> fx.Node:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return node
    return insert(graph, aten.detach.default, (node,), like=node, value=value)


def _submodule_position(node: fx.Node) -> int:
    return next(i for i, a in enumerate(node.args) if isinstance(a, fx.Node) and a.op == "get_attr")


def _region(graph_module: fx.GraphModule, node: fx.Node) -> tuple[fx.GraphModule, list[fx.Node], bool] | None:
    name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
    if name not in ("wrap_with_set_grad_enabled", "wrap_with_autocast"):
        return None
    position = _submodule_position(node)
    submodule = getattr(graph_module, str(node.args[position].target))  # type: ignore[union-attr]
    inputs = list(node.args[position + 1 :])
    if name == "wrap_with_set_grad_enabled":
        return submodule, inputs, not node.args[0]  # type: ignore[return-value]
    enabled = bool(node.args[2])
    return None if enabled else (submodule, inputs, False)  # type: ignore[return-value]


def drop_assertions(graph: fx.Graph) -> None:
    """Drop run-time assertions that nothing depends on."""
    for node in list(graph.nodes):
        if schema_name(node) in ASSERTIONS and not node.users:
            graph.erase_node(node)


def drop_identities(graph: fx.Graph, parameters: set[str]) -> None:
    """Drop nodes that hand on their input: alias, copies and detach of constants, ``x[:]``."""
    trained: set[fx.Node] = set()
    for node in list(graph.nodes):
        if node.op == "placeholder" and node.name in parameters:
            trained.add(node)
        if any(source in trained for source in node.all_input_nodes):
            trained.add(node)
        if _is_identity(node, trained):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _is_identity(node: fx.Node, trained: set[fx.Node]) -> bool:
    name = op_name(node)
    if name in ("alias", "lift_fresh", "lift_fresh_copy"):
        return True
    if name in ("detach", "detach_"):
        return node.args[0] not in trained
    return name == "slice" and _is_whole_slice(node)


def _is_whole_slice(node: fx.Node) -> bool:
    _, _, start, end, step = slice_range(node)
    return start in (0, None) and end in (None, WHOLE) and step == 1
