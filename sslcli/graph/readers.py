"""Readers: the weights that convolutions and linear layers multiply by, with the units of their axes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from sslcli.graph.facets import varying
from sslcli.graph.ops import bind, kind_of, shape_of
from sslcli.graph.slots import Structure


@dataclass(frozen=True)
class Reader:
    """A convolution or linear layer whose weight is a parameter (or the v of a weight norm).

    Attributes:
        node: the op.
        name: the parameter that holds the weight.
        scale: the g of its weight norm, None without one.
        kind: conv, conv_transpose, linear.
        shape: the weight's.
        groups: of the convolution.
        rows: int64, the unit that each filter (output channel) writes.
        columns: int64, the unit that each input channel is of; -1 where the input stays whole.
    """

    node: fx.Node
    name: str
    scale: str | None
    kind: str
    shape: tuple[int, ...]
    groups: int
    rows: Tensor
    columns: Tensor

    @property
    def layer(self) -> str:
        """The dotted name of the layer: the parameter's without its last part."""
        for suffix in (".parametrizations.weight.original1", ".weight_v"):
            if self.name.endswith(suffix):
                return self.name.removesuffix(suffix)
        return self.name.rpartition(".")[0] or self.name

    @property
    def depthwise(self) -> bool:
        """Whether every group reads one channel."""
        return self.groups > 1 and self.shape[1] == 1


def readers(structure: Structure) -> list[Reader]:
    """Every convolution and linear layer with a weight of its own, in order; one reused comes once a use."""
    names = structure.program.names()
    found = []
    for node in structure.nodes:
        kind = kind_of(node) if node.op == "call_function" else ""
        if kind not in ("conv", "conv_transpose", "linear"):
            continue
        arguments = bind(node)
        weight, scale = arguments["weight"], None
        if kind_of(weight) == "weight_norm" if weight.op == "call_function" else False:
            scale = names.get(bind(weight)["g"])
            weight = bind(weight)["v"]
        if weight not in names:
            continue
        channel = len(shape_of(node)) - 1 if kind == "linear" else 1
        source = arguments["input"]
        found.append(
            Reader(
                node=node,
                name=names[weight],
                scale=scale,
                kind=kind,
                shape=shape_of(weight),
                groups=int(arguments.get("groups", 1)),
                rows=_vector(structure, node, channel),
                columns=_vector(structure, source, len(shape_of(source)) - 1 if kind == "linear" else 1),
            )
        )
    return found


def depthwise_weights(structure: Structure) -> list[str]:
    """The parameters that hold the weights of depthwise convolutions, both of a weight norm."""
    layers = [layer for layer in readers(structure) if layer.depthwise]
    return [name for layer in layers for name in (layer.name, layer.scale) if name is not None]


def _vector(structure: Structure, node: fx.Node, axis: int) -> Tensor:
    along = [facet for facet in structure.of(node) if facet.shape[axis] > 1]
    if len(along) == 1 and varying(along[0]) == (axis,):
        return along[0].reshape(-1)
    return torch.full((shape_of(node)[axis],), -1)
