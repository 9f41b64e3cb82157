"""Residual branches: what a network would lose if one of the two operands of a sum were zero."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import fx

from sslcli.graph.groups import GroupSet, GroupView
from sslcli.graph.ops import is_tensor, op_name, shape_of
from sslcli.graph.readers import Reader
from sslcli.graph.slots import Structure


def depth_groups(structure: Structure, layers: Sequence[Reader], unit: str = "block") -> list[GroupSet]:
    """A group for every residual branch, or for each layer in one.

    A branch is what lies between a fork and a sum on one side only, feeds nothing else, and has layers with
    weights where the other side has fewer (none in an identity shortcut).
    """
    by_node = {layer.node: layer for layer in layers}
    ancestors = _ancestors(structure)
    sets = []
    for node in structure.nodes:
        branch = _branch(node, ancestors, by_node)
        if not branch:
            continue
        parts = [[layer] for layer in branch] if unit == "conv" else [branch]
        sets += [_group(part) for part in parts]
    return sets


def _group(layers: Sequence[Reader]) -> GroupSet:
    names = dict.fromkeys(layer.scale or layer.name for layer in layers)
    sizes = {
        layer.scale or layer.name: (layer.shape[0] if layer.scale else math.prod(layer.shape))
        for layer in layers
    }
    index = torch.zeros((), dtype=torch.int64)
    views = tuple(GroupView(name, (sizes[name],), (), index) for name in names)
    label = "+".join(dict.fromkeys(layer.layer for layer in layers))
    return GroupSet("depth", label, 1, torch.tensor([sum(sizes.values())]), views)


def _ancestors(structure: Structure) -> dict[fx.Node, int]:
    """Every node's ancestors and itself as a bit set over node numbers."""
    number = {node: position for position, node in enumerate(structure.nodes)}
    bits: dict[fx.Node, int] = {}
    for node in structure.nodes:
        mask = 1 << number[node]
        for source in node.all_input_nodes:
            mask |= bits[source]
        bits[node] = mask
    return bits


def _branch(node: fx.Node, ancestors: dict[fx.Node, int], layers: dict[fx.Node, Reader]) -> list[Reader]:
    if node.op != "call_function" or op_name(node) != "add" or len(node.args) < 2:
        return []
    first, second = node.args[0], node.args[1]
    if not (is_tensor(first) and is_tensor(second)) or shape_of(first) != shape_of(second):  # type: ignore[arg-type]
        return []
    left = _own_layers(first, second, node, ancestors, layers)  # type: ignore[arg-type]
    right = _own_layers(second, first, node, ancestors, layers)  # type: ignore[arg-type]
    return left if len(left) > len(right) else right if len(right) > len(left) else []


def _own_layers(
    own: fx.Node, other: fx.Node, total: fx.Node, ancestors: dict[fx.Node, int], layers: dict[fx.Node, Reader]
) -> list[Reader]:
    """The layers that only ``own`` depends on; none if one of them feeds something outside the branch."""
    mask = ancestors[own] & ~ancestors[other]
    found, stack, seen = [], [own], set[fx.Node]()
    if not mask:
        return []
    number = {node: position for position, node in enumerate(own.graph.nodes)}
    while stack:
        node = stack.pop()
        if node in seen or not mask >> number[node] & 1 or node.op != "call_function":
            continue
        seen.add(node)
        if node in layers:
            found.append(layers[node])
        stack.extend(node.all_input_nodes)
    closed = all(user in seen or user is total for node in seen for user in node.users)
    return found[::-1] if closed else []
