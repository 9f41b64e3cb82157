"""Pass: BatchNormalization folded into the convolution before it."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from sslcli.lowering import protos
from sslcli.lowering.clean import drop_dead


def fold_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold every inference BatchNormalization whose input is a Conv, ConvTranspose or Gemm read by it alone.

    With s = scale / sqrt(var + epsilon) per output channel: W' = s W and b' = s (b - mean) + shift, computed
    in float64. A row of zeros stays a row of zeros. Works in place; constants must be initialisers.
    """
    graph = model.graph
    for norm in list(graph.node):
        if norm.op_type == "BatchNormalization" and not protos.integer(norm, "training_mode", 0):
            _fold(graph, norm)
    drop_dead(graph)
    return model


def _fold(graph: onnx.GraphProto, norm: onnx.NodeProto) -> None:
    known = protos.constants(graph)
    source = protos.producers(graph).get(norm.input[0])
    if source is None or not _foldable(graph, source, norm, known):
        return
    scale, shift, mean, variance = (protos.array(known[name]).astype(np.float64) for name in norm.input[1:5])
    factor = scale / np.sqrt(variance + protos.number(norm, "epsilon", 1e-5))
    weight = known[source.input[1]]
    values = protos.array(weight)
    bias = (
        protos.array(known[source.input[2]]).astype(np.float64) if _has_bias(source) else np.zeros_like(mean)
    )
    if source.op_type == "Gemm":
        bias = bias * protos.number(source, "beta", 1.0)
        protos.set_attribute(source, "beta", 1.0)
    axis, blocks = _output_axis(source)
    folded = _scale(values.astype(np.float64), factor, axis, blocks).astype(values.dtype)
    taken = protos.names(graph)
    weight_name, bias_name = weight.name, protos.fresh(f"{source.name}.bias", taken)
    if len(protos.consumers(graph)[weight.name]) > 1:
        weight_name = protos.fresh(weight.name, taken)
    protos.set_constant(graph, weight_name, folded)
    protos.set_constant(graph, bias_name, (factor * (bias - mean) + shift).astype(values.dtype))
    source.input[:] = [source.input[0], weight_name, bias_name]
    source.output[0] = norm.output[0]
    graph.node.remove(norm)


def _foldable(
    graph: onnx.GraphProto,
    source: onnx.NodeProto,
    norm: onnx.NodeProto,
    known: dict[str, onnx.TensorProto],
) -> bool:
    if source.op_type not in ("Conv", "ConvTranspose", "Gemm") or source.input[1] not in known:
        return False
    if _has_bias(source) and source.input[2] not in known:
        return False
    alone = len(protos.consumers(graph)[source.output[0]]) == 1
    inner = source.output[0] not in protos.outputs(graph)
    return alone and inner and all(name in known for name in norm.input[1:5])


def _has_bias(node: onnx.NodeProto) -> bool:
    return len(node.input) > 2 and bool(node.input[2])


def _output_axis(node: onnx.NodeProto) -> tuple[int, int]:
    """The weight's axis of output channels, and in how many equal blocks the channels are spread."""
    if node.op_type == "Conv":
        return 0, 1
    if node.op_type == "Gemm":
        return (0 if protos.integer(node, "transB", 0) else 1), 1
    return 1, protos.integer(node, "group", 1)


def _scale(
    weight: NDArray[np.float64], factor: NDArray[np.float64], axis: int, blocks: int
) -> NDArray[np.float64]:
    if blocks == 1:
        shape = [1] * weight.ndim
        shape[axis] = -1
        return weight * factor.reshape(shape)
    # ConvTranspose: weight (C, N/G, ...), input channel c belongs to group c // (C/G).
    per_group = factor.reshape(blocks, -1).repeat(weight.shape[0] // blocks, axis=0)
    return weight * per_group.reshape(*per_group.shape, *[1] * (weight.ndim - 2))
