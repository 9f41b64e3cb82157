"""Pass: what depends on constants alone is computed once, so that weights are initialisers."""

from __future__ import annotations

import onnx

from sslcli.lowering import check, protos
from sslcli.lowering.patterns import has_zero_groups

_PLAIN = frozenset(
    {"Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Concat", "Slice", "Gather", "Split", "Pad"}
    | {"Mul", "Add", "Sub", "Div", "Neg", "Sqrt", "Reciprocal", "Pow", "ReduceSum", "ReduceL2", "Shape"}
)
# Stored narrow on purpose: written wide only where a lowering needs the values.
_WIDENING = frozenset({"Cast", "DequantizeLinear"})
_MOST_GROWTH = 2
_SMALL_BYTES = 1 << 16


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace nodes that read only initialisers by their results, in place.

    1. Shapes changed, elements moved and arithmetic (weight norm, scales) are computed by ONNX Runtime.
    2. Casts to float32 and dequantised weights become float32 only where whole rows, columns or 2D kernels
       are zero, and not under an activation that is dequantised too: that layer runs in integers.
    3. What is more than twice as large as what it is made of stays.
    """
    graph = model.graph
    wanted = _results(model, _candidates(graph))
    for name, values in wanted.items():
        protos.set_constant(graph, name, values)
    kept = [node for node in graph.node if not (node.output and node.output[0] in wanted)]
    if len(kept) < len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)
    return model


def _candidates(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes with one output that depend on initialisers alone, in order."""
    known = set(protos.constants(graph))
    found = []
    for node in graph.node:
        standard = node.domain in ("", "ai.onnx") and node.op_type in _PLAIN | _WIDENING
        if standard and len(node.output) == 1 and all(name in known for name in node.input if name):
            found.append(node)
            known.add(node.output[0])
    return found


def _results(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> dict[str, protos.Array]:
    """The values of those candidates that may be folded, by name."""
    if not nodes:
        return {}
    graph, known = model.graph, protos.constants(model.graph)
    computed = dict(zip([node.output[0] for node in nodes], _evaluate(model, nodes), strict=True))
    ends = protos.outputs(graph)
    folded: dict[str, protos.Array] = {}
    for node in nodes:
        name = node.output[0]
        inputs = [folded[each] if each in folded else known.get(each) for each in node.input if each]
        if name in ends or any(value is None for value in inputs):
            continue
        size = sum(_bytes(value) for value in inputs if value is not None)
        values = computed[name]
        if node.op_type in _WIDENING:
            if _is_worth_widening(graph, node, values):
                folded[name] = values
        elif values.nbytes <= max(_SMALL_BYTES, _MOST_GROWTH * size):
            folded[name] = values
    return folded


def _bytes(values: onnx.TensorProto | protos.Array) -> int:
    if isinstance(values, onnx.TensorProto):
        return len(values.raw_data) or protos.array(values).nbytes
    return values.nbytes


def _evaluate(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> list[protos.Array]:
    known = protos.constants(model.graph)
    read = {name for node in nodes for name in node.input}
    piece = onnx.helper.make_graph(
        nodes,
        "constants",
        [],
        [onnx.helper.make_empty_tensor_value_info(node.output[0]) for node in nodes],
        [tensor for name, tensor in known.items() if name in read],
    )
    return check.run(
        onnx.helper.make_model(piece, opset_imports=model.opset_import, ir_version=model.ir_version), {}
    )


def _is_worth_widening(graph: onnx.GraphProto, node: onnx.NodeProto, values: protos.Array) -> bool:
    producers = protos.producers(graph)
    readers = protos.consumers(graph).get(node.output[0], [])
    if values.dtype != "float32" or values.ndim < 2 or not has_zero_groups(values):
        return False
    for reader in readers:
        above = producers.get(reader.input[0])
        if above is not None and above.op_type == "DequantizeLinear":
            return False
    return True
