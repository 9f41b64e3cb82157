"""Which nodes share storage, which write to it, and the functional twin of an in-place operator."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import OpOverload

from sslcli.errors import GraphError
from sslcli.graph.nodes import op_name, where

aten = torch.ops.aten

# In-place operators whose functional twin is not the name without its final underscore.
TWINS: dict[str, Any] = {
    "aten::zero_": aten.zeros_like.default,
    "aten::normal_": aten.normal_functional.default,
    "aten::bernoulli_.float": aten.bernoulli.p,
    "aten::__iand__.Tensor": aten.bitwise_and.Tensor,
    "aten::__ior__.Tensor": aten.bitwise_or.Tensor,
    "aten::__ixor__.Tensor": aten.bitwise_xor.Tensor,
}


def written_argument(node: fx.Node) -> fx.Node | None:
    """The node that this one writes to, if it writes."""
    if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable:
        return None
    written = [
        (position, argument.name)
        for position, argument in enumerate(node.target._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    found = [
        node.args[position] if position < len(node.args) else node.kwargs.get(name)
        for position, name in written
    ]
    if len(found) != 1 or not isinstance(found[0], fx.Node):
        raise GraphError(
            f"{node.target} at {where(node)} writes to several tensors at once",
            "write the model without this in-place operator",
        )
    return found[0]


def viewed_argument(node: fx.Node) -> fx.Node | None:
    """The node that this one may be a view of, by its schema."""
    if node.target is operator.getitem:
        source = node.args[0]
        return source if isinstance(source, fx.Node) and viewed_argument(source) is not None else None
    if not isinstance(node.target, OpOverload):
        return None
    schema = node.target._schema
    if not any(result.alias_info is not None for result in schema.returns):
        return None
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None:
            found = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            return found if isinstance(found, fx.Node) else None
    return None


def really_views(node: fx.Node) -> bool:
    """Whether the node shares its input's storage, where the schema leaves it open (reshape, contiguous)."""
    if op_name(node) not in ("reshape", "flatten", "contiguous", "to", "reshape_as", "ravel"):
        return True
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return _storage(evaluated(node)) == _storage(source.meta["val"])


def evaluated(node: fx.Node) -> Any:
    """The fake value of a node, computed anew from those of its arguments."""
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
    with enable_python_dispatcher():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def twin(node: fx.Node) -> OpOverload:
    """The operator that computes what an in-place one would store."""
    overload = node.target
    assert isinstance(overload, OpOverload)
    schema = overload._schema
    key = schema.name + (f".{schema.overload_name}" if schema.overload_name else "")
    known = TWINS.get(key)
    if isinstance(known, OpOverload):
        return known
    namespace, _, name = schema.name.partition("::")
    packet = (
        getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None) if name.endswith("_") else None
    )
    found = getattr(packet, schema.overload_name or "default", None)
    if not isinstance(found, OpOverload) or found._schema.is_mutable:
        raise GraphError(
            f"the in-place operator {overload} at {where(node)} has no functional twin",
            "write the model without this in-place operator",
        )
    return found


def written_families(graph: fx.Graph) -> tuple[set[fx.Node], dict[fx.Node, None]]:
    """The nodes that may share storage with something that is written to, and the writers in order."""
    root: dict[fx.Node, fx.Node] = {}
    writers: dict[fx.Node, None] = {}

    def find(node: fx.Node) -> fx.Node:
        while node in root:
            node = root[node]
        return node

    for node in graph.nodes:
        target = written_argument(node)
        source = target if target is not None else viewed_argument(node)
        if source is not None:
            root[node] = find(source)
        if target is not None:
            writers[node] = None
    written = {find(node) for node in writers}
    return {node for node in graph.nodes if find(node) in written}, writers
