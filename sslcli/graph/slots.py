"""Slots: push units through a traced graph and find out what must be kept together.

Every parameter and buffer starts with one facet an axis. Each node's rule (``rules.RULES``, by the kind of
its op) says how the facets of its operands make those of its result. What comes out is a ``Structure``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from sslcli.errors import GraphError
from sslcli.graph.contract import Link
from sslcli.graph.facets import Facets, axis_array, compress, tidy, varying
from sslcli.graph.ops import hint, is_tensor, kind_of, op_name, shape_of, where
from sslcli.graph.program import Program
from sslcli.graph.units import Units


@dataclass(frozen=True)
class Grouped:
    """A grouped convolution: groups stay or go whole, and those that stay have equal widths.

    ``inputs`` is int64 (groups, channels in a group), ``outputs`` (groups, filters in a group).
    """

    node: fx.Node
    inputs: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class Structure:
    """What a network's graph says about its removable units.

    Args:
        program: the traced network.
        units: the union-find; ``units.roots()`` and ``units.pinned()`` speak of its integers.
        facets: the facets of every node's results, by node.
        rigid: joint facets (over two axes or more): what is removed of them is whole hyperplanes.
        links: rows of unit arrays that go together.
        grouped: grouped convolutions.
        unknown: nodes whose op no rule knows.
        heads: units of the scores of every attention, one a head.
    """

    program: Program
    units: Units
    facets: Mapping[fx.Node, list[Facets]]
    rigid: tuple[Tensor, ...]
    links: tuple[Link, ...]
    grouped: tuple[Grouped, ...]
    unknown: tuple[fx.Node, ...]
    heads: tuple[Tensor, ...] = ()

    @property
    def nodes(self) -> list[fx.Node]:
        """The graph's nodes in order."""
        return list(self.program.exported.graph.nodes)

    def of(self, node: fx.Node) -> Facets:
        """The facets of a node with one tensor value."""
        return self.facets[node][0]


class Builder:
    """The state of one analysis; rules read operands' facets from it and add what they find."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.units = Units()
        self.facets: dict[fx.Node, list[Facets]] = {}
        self.links: list[Link] = []
        self.grouped: list[Grouped] = []
        self.grouped_uses: dict[fx.Node, list[Tensor]] = {}  # weight -> the channels that each use reads
        self.unknown: list[fx.Node] = []
        self.heads: list[Tensor] = []
        self.weights = program.weights()
        self.names = program.names()

    def of(self, node: fx.Node) -> Facets:
        """Facets of a node with one tensor value."""
        return self.facets[node][0]

    def pin(self, node: fx.Node, reason: str) -> None:
        """Pin every unit of a node's values."""
        for facets in self.facets.get(node, []):
            for facet in facets:
                self.units.pin(facet, reason)

    def constant(self, node: Any) -> Tensor | None:
        """The value of a parameter or buffer placeholder; None for anything else."""
        if isinstance(node, fx.Node) and node in self.names:
            return self.weights[self.names[node]]
        return None

    def run(self, node: fx.Node, replacement: Mapping[fx.Node, Tensor]) -> Any:
        """Run a node's op on other operands, with symbolic sizes as in the example."""
        return run_op(node, replacement, self.constant)


def run_op(
    node: fx.Node, replacement: Mapping[fx.Node, Tensor], constant: Callable[[Any], Tensor | None]
) -> Any:
    """Run a node's op with its tensor operands replaced and its sizes as in the example."""

    def substitute(argument: Any) -> Any:
        if not isinstance(argument, fx.Node):
            return hint(argument)
        if argument in replacement:
            return replacement[argument]
        value = argument.meta.get("val")
        if isinstance(value, torch.SymInt | int):
            return hint(value)
        found = constant(argument)
        if found is None:
            raise GraphError(
                f"{where(node)} takes {argument.name}, whose value is not constant",
                "give the model a constant there",
            )
        return found

    args = fx.map_arg(node.args, substitute)
    kwargs = fx.map_arg(node.kwargs, substitute)
    args = torch.utils._pytree.tree_map(hint, args)
    name = op_name(node)
    if name in ("view", "_unsafe_view", "reshape", "_reshape_alias"):
        return args[0].reshape(args[1])
    if name == "view_as":
        return args[0].reshape(args[1].shape)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def analyse(program: Program) -> Structure:
    """Find the removable units of a traced network and all that couples or pins them.

    Raises:
        GraphError: a node's rule met something it cannot express.
    """
    from sslcli.graph.rules import RULES

    build = Builder(program)
    for node in program.exported.graph.nodes:
        if node.op == "placeholder":
            build.facets[node] = [_placeholder(build, node)] if is_tensor(node) else [[]]
        elif node.op == "output":
            _output(build, node)
        elif node.op == "call_function":
            _call(build, node, RULES)
    facets = {node: [tidy(build.units, f) for f in values] for node, values in build.facets.items()}
    return Structure(
        program=program,
        units=build.units,
        facets=facets,
        rigid=_rigid(facets),
        links=_links(build),
        grouped=tuple(build.grouped),
        unknown=tuple(build.unknown),
        heads=tuple(build.units.find(heads) for heads in build.heads),
    )


def _placeholder(build: Builder, node: fx.Node) -> Facets:
    if node not in build.names:
        return []  # an input of the network: whole
    shape = shape_of(node)
    return [
        axis_array(build.units.fresh(size), axis, len(shape)) for axis, size in enumerate(shape) if size > 1
    ]


def _output(build: Builder, node: fx.Node) -> None:
    for source in node.all_input_nodes:
        build.pin(source, "output of the network")


def _call(build: Builder, node: fx.Node, rules: Mapping[str, Callable[[Builder, fx.Node], Any]]) -> None:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor | tuple | list):
        return
    kind = kind_of(node)
    if kind == "getitem":
        source, position = node.args
        build.facets[node] = [build.facets[source][position]]  # type: ignore[index]
        return
    rule = rules.get(kind)
    result = rule(build, node) if rule is not None else None
    if result is None:
        result = leave_whole(build, node)
    build.facets[node] = result if isinstance(value, tuple | list) else [result]


def leave_whole(build: Builder, node: fx.Node) -> Any:
    """The rule of an op that nobody knows: its operands stay whole, its result has no structure."""
    build.unknown.append(node)
    for source in node.all_input_nodes:
        build.pin(source, f"unknown operation {where(node)}")
    value = node.meta.get("val")
    return [[] for _ in value] if isinstance(value, tuple | list) else []


def _rigid(facets: Mapping[fx.Node, list[Facets]]) -> tuple[Tensor, ...]:
    found: dict[tuple[object, ...], Tensor] = {}
    for values in facets.values():
        for several in values:
            for facet in several:
                if len(varying(facet)) > 1:
                    small = facet.squeeze()
                    found.setdefault((tuple(small.shape), small.numpy().tobytes()), small)
    return tuple(found.values())


def _links(build: Builder) -> tuple[Link, ...]:
    links = []
    for link in build.links:
        arrays = tuple(_distinct_columns(build.units.find(array)) for array in link.arrays)
        if any(not torch.equal(arrays[0], array) for array in arrays[1:]):
            links.append(Link(arrays))
    return tuple(links)


def _distinct_columns(array: Tensor) -> Tensor:
    return torch.unique(array, dim=1) if array.shape[1] > 1 else compress(array).expand(len(array), 1)
