"""An ONNX graph with every shape known at one batch size, and pieces cut out of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from sslcli.bench.inputs import ModelSource, RunSettings, describe, input_shapes, read_inputs, read_proto
from sslcli.bench.vet import subgraphs
from sslcli.errors import GraphError

_BY_INPUT = frozenset({"ConvTranspose"})
_BY_OUTPUT = frozenset({"Conv"})
_PRODUCTS = frozenset({"Gemm", "MatMul"})


@dataclass(frozen=True)
class TensorType:
    """Element type (of ``onnx.TensorProto``) and shape of a tensor."""

    element: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ShapedGraph:
    """A model at one batch size.

    Attributes:
        proto: the model, weights in external files not loaded.
        nodes: its nodes in their order.
        types: types of the tensors whose shape is known.
        constants: initialisers by name.
        folder: where the external files lie.
    """

    proto: onnx.ModelProto
    nodes: tuple[onnx.NodeProto, ...]
    types: dict[str, TensorType]
    constants: dict[str, onnx.TensorProto]
    folder: Path


def shaped_graph(model: ModelSource, settings: RunSettings) -> ShapedGraph:
    """Read ``model`` with its inputs at the batch size of ``settings`` and infer all other shapes.

    Raises:
        ModelError: the model cannot be read.
        InputError: it does not take the batch size.
        GraphError: its shapes contradict each other.
    """
    proto = read_proto(model)
    items = read_inputs(proto)
    shapes = input_shapes(items, settings)
    for item in items:
        for dim, size in zip(item.type.tensor_type.shape.dim, shapes[item.name], strict=True):
            dim.dim_value = size
    # Shapes that the exporter wrote hold symbols of an open batch; they would win over the inferred ones.
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise GraphError(
            f"the shapes of {describe(model)} cannot be inferred ({error})", "export the model again"
        ) from error
    folder = model.parent if isinstance(model, Path) else Path()
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    return ShapedGraph(
        inferred, tuple(inferred.graph.node), _types(inferred.graph, constants), constants, folder
    )


def macs(graph: ShapedGraph, nodes: Iterable[onnx.NodeProto]) -> int | None:
    """Multiply-accumulates of convolutions and matrix products among ``nodes``; None if a shape is open."""
    counts = [node_macs(graph, node) for node in nodes]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def node_macs(graph: ShapedGraph, node: onnx.NodeProto) -> int | None:
    """Multiply-accumulates of one node, 0 for operators other than convolutions and matrix products."""
    types = graph.types
    if node.op_type in _BY_OUTPUT | _BY_INPUT:
        spread = node.output[0] if node.op_type in _BY_OUTPUT else node.input[0]
        if spread not in types or node.input[1] not in types:
            return None
        return math.prod(types[spread].shape) * math.prod(types[node.input[1]].shape[1:])
    if node.op_type in _PRODUCTS:
        if node.output[0] not in types or node.input[0] not in types:
            return None
        transposed = any(found.name == "transA" and found.i for found in node.attribute)
        return math.prod(types[node.output[0]].shape) * types[node.input[0]].shape[0 if transposed else -1]
    return 0


def reads(node: onnx.NodeProto) -> set[str]:
    """Every value a node reads, those that its sub-graphs capture too."""
    names = {name for name in node.input if name}
    for body in subgraphs(node):
        written = {name for inner in body.node for name in inner.output}
        written |= {tensor.name for tensor in body.initializer} | {value.name for value in body.input}
        inner_reads = set().union(*(reads(inner) for inner in body.node)) if body.node else set()
        names |= (inner_reads | {value.name for value in body.output}) - written
    return names


def cut(graph: ShapedGraph, nodes: Sequence[onnx.NodeProto]) -> bytes:
    """A model of its own made of ``nodes``, with the real shapes and weights.

    What the nodes read and none of them writes becomes an input; what others read of them, an output.
    Nodes that compute their constants come along.

    Raises:
        GraphError: the shape of an input is not known, or nobody reads what the nodes write.
    """
    asked = {name for node in nodes for name in node.output}
    nodes = _with_constant_ancestors(graph, nodes)
    chosen = {id(node) for node in nodes}
    written = {name for node in nodes for name in node.output}
    # Operands stay in their order, in which random inputs are drawn; what sub-graphs capture has none.
    ordered = (name for node in nodes for name in [*node.input, *sorted(reads(node))])
    read = [name for name in dict.fromkeys(ordered) if name]
    elsewhere = {name for node in graph.nodes if id(node) not in chosen for name in reads(node)}
    elsewhere |= {output.name for output in graph.proto.graph.output}
    if not asked & elsewhere:
        raise GraphError("nothing in the model reads what it computes", "time whole models: --layers none")
    piece = onnx.helper.make_graph(
        nodes,
        "layer",
        [_value(graph, name) for name in read if name not in written and name not in graph.constants],
        [_value(graph, name) for node in nodes for name in node.output if name in elsewhere],
        [_loaded(graph, name) for name in read if name in graph.constants],
    )
    source = graph.proto
    return bytes(
        onnx.helper.make_model(
            piece,
            opset_imports=source.opset_import,
            ir_version=source.ir_version,
            functions=source.functions,
        ).SerializeToString()
    )


def between(graph: ShapedGraph, start: str, end: str) -> list[onnx.NodeProto] | None:
    """The nodes that compute tensor ``end`` from tensor ``start`` alone; None if they need another input."""
    producers = {name: node for node in graph.nodes for name in node.output}
    found: dict[int, onnx.NodeProto] = {}
    open_names = [end]
    while open_names:
        name = open_names.pop()
        if name == start or name in graph.constants or not name:
            continue
        if name not in producers:
            return None
        node = producers[name]
        if id(node) not in found:
            found[id(node)] = node
            open_names.extend(reads(node))
    return [node for node in graph.nodes if id(node) in found]


def _with_constant_ancestors(graph: ShapedGraph, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """``nodes`` and, before them, the nodes whose results depend on no input of the graph."""
    constant = set(graph.constants)
    producers: dict[str, onnx.NodeProto] = {}
    for node in graph.nodes:
        if reads(node) <= constant:
            constant.update(node.output)
            producers.update(dict.fromkeys(node.output, node))
    wanted = {id(node) for node in nodes}
    open_names = [name for node in nodes for name in reads(node)]
    while open_names:
        parent = producers.get(open_names.pop())
        if parent is not None and id(parent) not in wanted:
            wanted.add(id(parent))
            open_names.extend(reads(parent))
    return [node for node in graph.nodes if id(node) in wanted]


def _types(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]) -> dict[str, TensorType]:
    types = {tensor.name: TensorType(tensor.data_type, tuple(tensor.dims)) for tensor in constants.values()}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        dims = tensor.shape.dim
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            types[value.name] = TensorType(tensor.elem_type, tuple(dim.dim_value for dim in dims))
    return types


def _value(graph: ShapedGraph, name: str) -> onnx.ValueInfoProto:
    if name not in graph.types:
        raise GraphError(
            f"the shape of tensor {name} is not known before the model runs",
            "time whole models: --layers none",
        )
    found = graph.types[name]
    return onnx.helper.make_tensor_value_info(name, found.element, found.shape)


def _loaded(graph: ShapedGraph, name: str) -> onnx.TensorProto:
    tensor = graph.constants[name]
    if uses_external_data(tensor):
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        load_external_data_for_tensor(copy, str(graph.folder))
        copy.ClearField("external_data")
        copy.data_location = onnx.TensorProto.DEFAULT
        return copy
    return tensor


def fixed_batch(settings: RunSettings) -> RunSettings:
    """Settings for models that ``cut`` made: every axis is fixed in them."""
    return replace(settings, batch_size=None, input_shape=None)
