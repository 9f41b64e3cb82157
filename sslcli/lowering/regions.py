"""A layer with its neighbours, as a model of its own: what a lowering is timed in.

A lowering changes the layout in which the layer's input and output are best stored, so a layer timed alone
would hide what its neighbours pay. The region goes up and down from the layer until an operator that fixes
the layout itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import onnx

from sslcli.bench.graphs import ShapedGraph, cut, shaped_graph
from sslcli.bench.inputs import RunSettings
from sslcli.lowering import protos

_ANCHORS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "Gemm", "MatMul"})
_PASSING = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LRN", "Gather"}
    | {"BatchNormalization", "Add", "Mul", "Concat", "GlobalAveragePool", "Flatten", "Reshape"}
)
_DEPTH = 3
_FEW = 16
_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})


def region(model: onnx.ModelProto, name: str, settings: RunSettings) -> onnx.ModelProto:
    """The region of the node ``name`` at the batch size of ``settings``.

    Raises:
        GraphError: the shapes around the node are not known.
        InputError: the model does not take the batch size.
    """
    graph = _shaped(model, settings)
    node = next(node for node in graph.nodes if node.name == name)
    chosen = {node.name, *_upwards(graph, node), *_downwards(graph, node)}
    nodes = [other for other in graph.nodes if other.name in chosen]
    return slim(onnx.load_from_string(cut(graph, nodes)), name)


def alone(model: onnx.ModelProto, name: str, settings: RunSettings) -> onnx.ModelProto:
    """The node ``name`` without its neighbours, as ``region`` gives it with them."""
    graph = _shaped(model, settings)
    return onnx.load_from_string(cut(graph, [node for node in graph.nodes if node.name == name]))


def _shaped(model: onnx.ModelProto, settings: RunSettings) -> ShapedGraph:
    """Shapes are inferred without the weights, which would be copied several times for each layer."""
    light = shaped_graph(protos.hollow(model).SerializeToString(), settings)
    return replace(light, constants=protos.constants(model.graph))


def slim(piece: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Make the neighbouring convolutions and products cheap, in place, so that the layer's share shows.

    They keep the layout that they ask for, but those below compute few filters, and those above read few
    channels. Constants that others read too stay as they are.
    """
    graph = piece.graph
    known, readers, uses = protos.constants(graph), protos.consumers(graph), protos.uses(graph)
    ends = {value.name: value for value in graph.output}
    starts = {value.name: value for value in graph.input}
    for node in graph.node:
        if node.name == name or node.op_type not in ("Conv", "Gemm") or node.input[1] not in known:
            continue
        if protos.integer(node, "group", 1) != 1 or not _is_plain_gemm(node):
            continue
        if any(uses[constant] > 1 for constant in node.input[1:] if constant):
            continue
        weight = protos.array(known[node.input[1]])
        if len(weight) > _FEW and node.output[0] in ends and not readers.get(node.output[0]):
            weight = weight[:_FEW]
            ends[node.output[0]].type.tensor_type.shape.dim[1].dim_value = _FEW
            for constant in [name for name in node.input[2:] if name in known]:
                bias = protos.array(known[constant])  # (N,), (1, N) or one value for all
                if bias.size > 1:
                    protos.set_constant(graph, constant, bias[..., :_FEW])
        if weight.shape[1] > _FEW and node.input[0] in starts and len(readers[node.input[0]]) == 1:
            weight = weight[:, :_FEW]
            starts[node.input[0]].type.tensor_type.shape.dim[1].dim_value = _FEW
        protos.set_constant(graph, node.input[1], weight)
    return piece


def _is_plain_gemm(node: onnx.NodeProto) -> bool:
    if node.op_type != "Gemm":
        return True
    return bool(protos.integer(node, "transB", 0)) and not protos.integer(node, "transA", 0)


def region_key(model: onnx.ModelProto) -> str:
    """A hash of what decides a region's speed: operators, wiring, shapes and zeros, not names or values."""
    digest = hashlib.sha256()
    graph = model.graph
    numbers: dict[str, int] = {}
    for value in check_order(graph):
        numbers.setdefault(value, len(numbers))
    for item in graph.input:
        digest.update(item.type.SerializeToString(deterministic=True))
    for tensor in graph.initializer:
        mask = protos.array(tensor) != 0
        digest.update(f"{numbers.get(tensor.name)}{tensor.dims}{tensor.data_type}".encode())
        digest.update(mask.tobytes())
    for node in graph.node:
        digest.update(node.op_type.encode())
        digest.update(str([numbers.get(name) for name in [*node.input, *node.output]]).encode())
        for found in sorted(node.attribute, key=lambda item: item.name):
            digest.update(found.SerializeToString(deterministic=True))
    return digest.hexdigest()


def check_order(graph: onnx.GraphProto) -> list[str]:
    """Value names in the order in which nodes meet them."""
    return [name for node in graph.node for name in [*node.input, *node.output]]


def _may_belong(graph: ShapedGraph, node: onnx.NodeProto) -> bool:
    """Whether a neighbour can be run apart: a known operator that reads floats and constants.

    A shape or an index that is computed elsewhere would become an input, and any test input is wrong there.
    """
    if node.op_type not in _ANCHORS | _PASSING:
        return False
    computed = [name for name in node.input if name and name not in graph.constants]
    return all(name in graph.types and graph.types[name].element in _FLOATS for name in computed)


def _upwards(graph: ShapedGraph, node: onnx.NodeProto) -> set[str]:
    """Names of the nodes between the layer's input and the nearest anchor above, that one included."""
    producers = {name: other for other in graph.nodes for name in other.output}
    found: set[str] = set()
    value = node.input[0]
    for _ in range(_DEPTH):
        above = producers.get(value)
        if above is None or not _may_belong(graph, above):
            break
        found.add(above.name)
        if above.op_type in _ANCHORS:
            break
        value = next((name for name in above.input if name in producers), "")
    return found


def _downwards(graph: ShapedGraph, node: onnx.NodeProto) -> set[str]:
    """Names of the nodes below the layer down to the nearest anchors, those included."""
    found: set[str] = set()
    values = {node.output[0]}
    for _ in range(_DEPTH):
        readers = [
            other for other in graph.nodes if values.intersection(other.input) and _may_belong(graph, other)
        ]
        found |= {other.name for other in readers}
        values = {name for other in readers if other.op_type not in _ANCHORS for name in other.output}
    return found
