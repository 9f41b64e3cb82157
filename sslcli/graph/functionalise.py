"""Rewrite the training IR of ``torch.export`` without in-place operations, keeping its training flags.

``y[:, :4] += 2`` arrives as two slices, an ``add_`` and a ``copy_`` that nobody reads. Here it becomes

    slice -> add -> slice_scatter

and whoever read ``y`` afterwards reads the ``slice_scatter``. ``ExportedProgram.run_decompositions`` would
do so too, but it splits batch norm and dropout into operators without a training flag.

The rewrite keeps, for every tensor whose storage is written somewhere in the graph (a *family*: one root
and the views of it), the node that holds its present value. A write gives the written view a new value,
and scatters that value back through the chain of views up to the root; every other view of the family is
then stale, and is taken anew from the root when it is next read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from sslcli.errors import GraphError
from sslcli.graph.aliases import (
    evaluated,
    really_views,
    twin,
    viewed_argument,
    written_argument,
    written_families,
)
from sslcli.graph.nodes import insert, op_name, slice_range, where
from sslcli.graph.simplify import drop_assertions, drop_identities, inline_regions

aten = torch.ops.aten

# Views that hand on their input as it is.
IDENTITIES = frozenset(
    {"alias", "detach", "detach_", "contiguous", "to", "lift_fresh", "view_as", "expand_as"}
)
# Views that keep the elements in row-major order, so that reshaping to the old shape undoes them.
RESHAPES = frozenset(
    {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "view_as"}
    | {"reshape_as", "expand_as", "_reshape_alias", "ravel"}
)
SPLITS = frozenset({"split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split"})


def functionalise(
    graph_module: fx.GraphModule, buffers: Iterable[str] = (), parameters: Iterable[str] = ()
) -> set[str]:
    """Make the graph of ``graph_module`` functional, in place.

    The values of all outputs stay the same to the bit. Regions of ``torch.no_grad`` are inlined (their
    results detached), assertions and nodes that hand on their input are dropped, ``view`` becomes
    ``reshape`` (the strides that a view relies on may change when weights are sliced).

    Args:
        graph_module: an exported graph with its weights as placeholders, fake tensors in ``meta['val']``.
        buffers: placeholders to which their new value is written back, by a final ``copy_``.
        parameters: placeholders through which gradients flow.

    Returns:
        The names of the placeholders that the graph wrote to.

    Raises:
        GraphError: an in-place operator without a functional twin, or a write through an unsupported view.
    """
    graph = graph_module.graph
    inline_regions(graph_module)
    drop_assertions(graph)
    drop_identities(graph, set(parameters))
    written = _Rewrite(graph).run(set(buffers))
    drop_identities(graph, set(parameters))
    for node in graph.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
    sweep(graph)
    graph.lint()
    return written


def sweep(graph: fx.Graph) -> None:
    """Drop the nodes that nobody reads, but for placeholders, the output and nodes that write."""
    graph.eliminate_dead_code(is_impure_node=_is_kept_unread)


def _is_kept_unread(node: fx.Node) -> bool:
    if node.op in ("placeholder", "output"):
        return True
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


class _Rewrite:
    """The values of the written families while the nodes are visited in order."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.members, self.writers = written_families(graph)
        self.parent: dict[fx.Node, fx.Node] = {}  # view -> what it is a view of
        self.version: dict[fx.Node, int] = {}  # root -> number of writes so far
        self.latest: dict[
            fx.Node, tuple[int, fx.Node]
        ] = {}  # original node -> (version, node with its value)
        self.cursor = self.anchor = next(
            iter(graph.nodes)
        )  # reads go before the one, writes before the other

    def run(self, buffers: set[str]) -> set[str]:
        for node in list(self.graph.nodes):
            self.cursor, self.anchor = node, node.next
            if node.op == "placeholder":
                self._settle(node, node)
            elif node.op == "output":
                self._write_back(buffers)
                self._read(node)
            else:
                self._visit(node)
        for node in reversed(self.writers):
            if op_name(node) == "copy_":  # its source took its place
                self.graph.erase_node(node)
        return {root.name for root in self.version if root.op == "placeholder" and self.version[root]}

    def _visit(self, node: fx.Node) -> None:
        target = written_argument(node)
        if target is not None:
            self._write(node, target)
            return
        source = viewed_argument(node)
        self._read(node)
        if node not in self.members or source is None or source not in self.members:
            self._settle(node, node)
            return
        if isinstance(node.meta.get("val"), FakeTensor) and not really_views(node):
            pass  # a copy: a family of its own
        else:
            self.parent[node] = source
        self._settle(node, self._shortcut(node) or node)

    def _root(self, node: fx.Node) -> fx.Node:
        while node in self.parent:
            node = self.parent[node]
        return node

    def _settle(self, node: fx.Node, value: fx.Node) -> None:
        if node in self.members:
            root = self._root(node)
            self.latest[node] = (self.version.setdefault(root, 0), value)

    def _read(self, node: fx.Node) -> None:
        node.args = fx.node.map_arg(node.args, self._value)
        node.kwargs = fx.node.map_arg(node.kwargs, self._value)

    def _value(self, node: fx.Node) -> fx.Node:
        """The node that holds what ``node`` holds now; a stale view is taken anew, before the cursor."""
        if node not in self.latest:
            return node
        version, value = self.latest[node]
        present = self.version[self._root(node)]
        if version == present:
            return value
        source = self.parent[node]
        fresh = self._again(node, self._value(source))
        self.latest[node] = (present, fresh)
        return fresh

    def _again(self, node: fx.Node, source: fx.Node) -> fx.Node:
        if node in self.writers:
            return source  # the result of an in-place operator is the tensor it wrote to
        viewed = viewed_argument(node)
        with self.graph.inserting_before(self.cursor):
            copy = self.graph.node_copy(node, lambda n: source if n is viewed else n)
        shortcut = self._shortcut(copy)
        if shortcut is not None:
            self.graph.erase_node(copy)
            return shortcut
        return copy

    def _shortcut(self, node: fx.Node) -> fx.Node | None:
        """The source of a scatter, where ``node`` reads just what the scatter has written."""
        if op_name(node) not in ("slice", "select") or not isinstance(node.args[0], fx.Node):
            return None
        base = node.args[0]
        if op_name(base) != f"{op_name(node)}_scatter":
            return None
        same = base.args[2:] == (slice_range(node)[1:] if op_name(node) == "slice" else node.args[1:])
        source = base.args[1]
        return source if same and isinstance(source, fx.Node) else None

    def _write(self, node: fx.Node, target: fx.Node) -> None:
        name = op_name(node)
        self._read(node)
        before = self._value(target)
        after = self._copied(node, before) if name == "copy_" else self._bytwin(node, before)
        root = self._root(target)
        if after is not before:
            values = self._scattered(target, after)
            self.version[root] += 1
            for view, value in values:
                self.latest[view] = (self.version[root], value)
        self.parent[node] = target
        self.latest[node] = (self.version[root], after)

    def _copied(self, node: fx.Node, before: fx.Node) -> fx.Node:
        source = node.args[1]
        assert isinstance(source, fx.Node)
        old, new = before.meta["val"], source.meta["val"]
        node.meta["val"] = old
        with self.graph.inserting_before(node):
            if new.dtype != old.dtype:
                new = new.to(old.dtype)
                source = insert(self.graph, aten.to.dtype, (source, old.dtype), node, new)
            if str(list(new.shape)) != str(list(old.shape)):
                new = new.expand_as(old)
                source = insert(self.graph, aten.expand_as.default, (source, before), node, new)
            if str(new.stride()) != str(old.stride()):
                source = insert(self.graph, aten.contiguous.default, (source,), node, new.contiguous())
        return source

    def _bytwin(self, node: fx.Node, before: fx.Node) -> fx.Node:
        node.target = twin(node)
        old = before.meta["val"]
        result = evaluated(node)
        if result.dtype == old.dtype:
            return node
        node.meta["val"] = result
        return self._new(aten.to.dtype, (node, old.dtype), node, old)

    def _scattered(self, target: fx.Node, after: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
        """The new value of the written view, and of everything that it is a view of, up to the root."""
        values = [(target, after)]
        while target in self.parent:
            source = self.parent[target]
            if target in self.writers:
                scattered = after
            elif op_name(source) in SPLITS or op_name(source) == "unbind":
                base = self.parent[source]
                scattered = self._scatter_piece(target, source, self._value(base), after)
                source = base
            else:
                scattered = self._scatter(target, source, after)
            values.append((source, scattered))
            target, after = source, scattered
        return values

    def _scatter(self, view: fx.Node, base: fx.Node, after: fx.Node) -> fx.Node:
        """The new value of ``base`` once its view holds ``after``."""
        name, old = op_name(view), base.meta["val"]
        target: Any
        args: tuple[Any, ...]
        if name in IDENTITIES and str(list(old.shape)) == str(list(view.meta["val"].shape)):
            return after
        if name == "slice":
            _, *spec = slice_range(view)
            target, args = aten.slice_scatter.default, (self._value(base), after, *spec)
        elif name == "select":
            target, args = aten.select_scatter.default, (self._value(base), after, *view.args[1:])
        elif name == "diagonal":
            target, args = aten.diagonal_scatter.default, (self._value(base), after, *view.args[1:])
        elif name in ("transpose", "swapaxes", "swapdims"):
            target, args = aten.transpose.int, (after, *view.args[1:])
        elif name == "movedim":
            source, destination = view.args[1:]
            target, args = view.target, (after, destination, source)
        elif name in ("t", "numpy_T"):
            target, args = aten.t.default, (after,)
        elif name == "permute":
            axes = [a % old.dim() for a in view.args[1]]  # type: ignore[union-attr]
            target, args = aten.permute.default, (after, [axes.index(i) for i in range(len(axes))])
        elif name in RESHAPES and view.meta["val"].numel() == old.numel():
            target, args = aten.reshape.default, (after, self._sizes(base))
        else:
            raise GraphError(
                f"an in-place write through {view.target} at {where(view)} is not supported",
                "write it as an operation that returns a new tensor",
            )
        return self._new(target, args, view, old)

    def _scatter_piece(self, piece: fx.Node, split: fx.Node, base: fx.Node, after: fx.Node) -> fx.Node:
        index, old = int(piece.args[1]), base.meta["val"]  # type: ignore[arg-type]
        position = 1 if op_name(split) == "unbind" else 2
        dim = split.args[position] if len(split.args) > position else split.kwargs.get("dim", 0)
        assert isinstance(dim, int)
        if op_name(split) == "unbind":
            return self._new(aten.select_scatter.default, (base, after, dim, index), piece, old)
        start = sum(int(v.shape[dim]) for v in split.meta["val"][:index])
        end = start + int(split.meta["val"][index].shape[dim])
        return self._new(aten.slice_scatter.default, (base, after, dim, start, end, 1), piece, old)

    def _sizes(self, base: fx.Node) -> list[Any]:
        """The shape of ``base`` as arguments: numbers, and -1 or a size node for what is symbolic."""
        shape = list(base.meta["val"].shape)
        symbolic = [i for i, size in enumerate(shape) if isinstance(size, torch.SymInt)]
        if len(symbolic) == 1:
            return [-1 if i in symbolic else size for i, size in enumerate(shape)]
        return [
            self._new(aten.sym_size.int, (self._value(base), i), base, size) if i in symbolic else size
            for i, size in enumerate(shape)
        ]

    def _new(self, target: Any, args: tuple[Any, ...], like: fx.Node, value: Any) -> fx.Node:
        with self.graph.inserting_before(self.anchor):
            return insert(self.graph, target, args, like, value)

    def _write_back(self, buffers: set[str]) -> None:
        """Store the last value of every buffer that was written to."""
        for root, version in list(self.version.items()):
            if version and root.op == "placeholder" and root.name in buffers:
                with self.graph.inserting_before(self.cursor):
                    value = self._value(root)
                    insert(self.graph, aten.copy_.default, (root, value), value, root.meta["val"])
