"""Layers of a model, found again in models made from it, each as an ONNX model of its own.

A layer is a node with a weight: a convolution, or a matrix product with a constant. In another model it is
matched by name: the node of the same name, or the nodes ``NAME/...`` that a lowering put in its place;
failing that, by what lies between the tensors that it read and wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx

from sslcli.bench.graphs import ShapedGraph, between, cut, macs
from sslcli.errors import GraphError, UsageError

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_ALL = "*"
_WEIGHTED = _CONVOLUTIONS | {"Gemm", "MatMul"}


@dataclass(frozen=True)
class Layer:
    """One layer cut out of a model.

    Attributes:
        name: the node's name in the base model.
        op_type: the operator there.
        nodes: what computes it in this model.
        model: a serialised ONNX model of these nodes alone, with real shapes and weights.
        macs: multiply-accumulates as executed, None where a shape is unknown.
    """

    name: str
    op_type: str
    nodes: tuple[onnx.NodeProto, ...]
    model: bytes
    macs: int | None


@dataclass(frozen=True)
class LayerPairs:
    """One layer in the base and in the other models.

    Attributes:
        base: the layer in the base model.
        others: the layer in each other model, None where that model has it no more.
    """

    base: Layer
    others: tuple[Layer | None, ...]


def match_layers(
    base: ShapedGraph, others: Sequence[ShapedGraph], glob: str = _ALL
) -> tuple[list[LayerPairs], list[str]]:
    """Cut every layer of ``base`` whose name matches ``glob``, and its counterparts in ``others``.

    A layer whose very name is ``glob`` is meant alone, whatever the name would match as a glob.

    Returns:
        The layers in the order of the graph, and notes on those that could not be cut.

    Raises:
        UsageError: no layer matches ``glob``.
    """
    named = [(layer_name(node), node) for node in base.nodes if is_layer(base, node)]
    exact = [(name, node) for name, node in named if name == glob != _ALL]
    chosen = exact or [(name, node) for name, node in named if fnmatchcase(name, glob)]
    if not named and glob == _ALL:
        return [], ["the base has no layer with weights"]
    if not chosen:
        known = ", ".join(name for name, _ in named[:8])
        raise UsageError(
            f"--layers {glob} matches no layer", f"the model has {known or 'no layer with weights'}"
        )
    pairs: list[LayerPairs] = []
    notes: list[str] = []
    for name, node in chosen:
        try:
            pairs.append(
                LayerPairs(_layer(base, node, [node]), tuple(_find(graph, node) for graph in others))
            )
        except GraphError as error:
            notes.append(f"{name} is left out: {error.what}")
    return pairs, notes


def is_layer(graph: ShapedGraph, node: onnx.NodeProto) -> bool:
    """Whether ``node`` is a convolution or a matrix product with a weight."""
    if node.op_type not in _WEIGHTED:
        return False
    return node.op_type in _CONVOLUTIONS or any(name in graph.constants for name in node.input[:2])


def layer_name(node: onnx.NodeProto) -> str:
    """The node's name; exporters that give none leave the name of its output."""
    return str(node.name or node.output[0])


def _find(graph: ShapedGraph, original: onnx.NodeProto) -> Layer | None:
    name = layer_name(original)
    nodes = [node for node in graph.nodes if layer_name(node) == name or node.name.startswith(f"{name}/")]
    nodes = nodes or between(graph, original.input[0], original.output[0]) or []
    return _layer(graph, original, nodes) if nodes else None


def _layer(graph: ShapedGraph, original: onnx.NodeProto, nodes: Sequence[onnx.NodeProto]) -> Layer:
    return Layer(layer_name(original), original.op_type, tuple(nodes), cut(graph, nodes), macs(graph, nodes))
