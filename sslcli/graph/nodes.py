"""What is asked of single nodes of an ATen graph: names, places, arguments, insertion."""

from __future__ import annotations

from typing import Any

from torch import fx
from torch._ops import OpOverload


def where(node: fx.Node) -> str:
    """Where a node comes from, for messages: ``layer1.0.conv1 (model.py:12)``, as far as it is known."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    layer = str(stack[-1][0]) if stack and stack[-1][0] else "the top of the network"
    trace = [line for line in (node.meta.get("stack_trace") or "").splitlines() if 'File "' in line]
    if not trace:
        return layer
    file, line = trace[-1].split('"')[1], trace[-1].split("line ")[-1].split(",")[0]
    return f"{layer} ({file.rsplit('/', 1)[-1]}:{line})"


def schema_name(node: fx.Node) -> str:
    """``aten::add_.Tensor`` as ``aten::add_``; empty for anything that is not an operator."""
    return str(node.target._schema.name) if isinstance(node.target, OpOverload) else ""


def op_name(node: fx.Node) -> str:
    """The operator's bare name, such as ``add_``; empty for anything that is not an operator."""
    return schema_name(node).rpartition("::")[2]


def slice_range(node: fx.Node) -> tuple[Any, Any, Any, Any, Any]:
    """Base, axis, start, end and step of a ``slice``, its defaults filled in."""
    given: list[Any] = list(node.args)
    base, dim, start, end, step = given + [None] * (5 - len(given))
    return base, dim or 0, start, end, 1 if step is None else step


def insert(graph: fx.Graph, target: Any, args: tuple[Any, ...], like: fx.Node, value: Any) -> fx.Node:
    """A new node at the insertion point, with the origin of ``like`` and its own fake value."""
    node = graph.call_function(target, args)
    node.meta = {k: v for k, v in like.meta.items() if k not in ("val", "tensor_meta")}
    node.meta["val"] = value
    return node
