"""Pass: BatchNormalization, and scales and shifts by constants, folded into the layer before them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from sslcli.lowering import protos
from sslcli.lowering.clean import drop_dead

_SOURCES = frozenset({"Conv", "ConvTranspose", "Gemm"})


@dataclass(frozen=True)
class _Affine:
    """y = factor * x + offset for each channel of what ``source`` writes."""

    source: onnx.NodeProto
    factor: NDArray[np.float64]
    offset: NDArray[np.float64]


def fold_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold what is affine for each channel into the Conv, ConvTranspose or Gemm that it alone reads.

    1. An inference BatchNormalization: factor s = scale / sqrt(var + epsilon), offset shift - s mean.
    2. Mul, Add or Sub with a constant for each channel, as Caffe's Scale and TensorFlow's bias become.
    W' = factor W and b' = factor b + offset, computed in float64. A row of zeros stays a row of zeros. Works
    in place; constants must be initialisers.
    """
    graph = model.graph
    for node in list(graph.node):
        found = _affine(graph, node)
        if found is not None:
            _fold(graph, node, found)
    drop_dead(graph)
    return model


def _affine(graph: onnx.GraphProto, node: onnx.NodeProto) -> _Affine | None:
    """What ``node`` does to the channels of a layer that can take it up; None where it cannot."""
    if node.domain not in ("", "ai.onnx") or len(node.input) < 2:
        return None
    known, producers = protos.constants(graph), protos.producers(graph)
    if node.op_type == "BatchNormalization" and not protos.integer(node, "training_mode", 0):
        source = producers.get(node.input[0])
        if source is None or not all(name in known for name in node.input[1:5]):
            return None
        values = [protos.array(known[name]).astype(np.float64) for name in node.input[1:5]]
        scale, shift, mean, variance = values
        factor = scale / np.sqrt(variance + protos.number(node, "epsilon", 1e-5))
        found = _Affine(source, factor, shift - factor * mean)
        return found if _foldable(graph, source, known) else None
    if node.op_type not in ("Mul", "Add", "Sub"):
        return None
    value, constant = node.input[:2]
    if value in known and node.op_type != "Sub":
        value, constant = constant, value
    source = producers.get(value)
    if source is None or constant not in known or not _foldable(graph, source, known):
        return None
    each = _for_each_channel(protos.array(known[constant]), _channels(source, known), _rank(source, known))
    if each is None:
        return None
    ones, zeros = np.ones_like(each), np.zeros_like(each)
    return {
        "Mul": _Affine(source, each, zeros),
        "Add": _Affine(source, ones, each),
        "Sub": _Affine(source, ones, -each),
    }[node.op_type]


def _channels(source: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> int:
    axis, blocks = _output_axis(source)
    return int(known[source.input[1]].dims[axis]) * blocks


def _rank(source: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> int:
    """Axes of what ``source`` writes."""
    return len(known[source.input[1]].dims)


def _for_each_channel(values: protos.Array, channels: int, rank: int) -> NDArray[np.float64] | None:
    """(channels,) where a constant that broadcasts to (batch, channels, ...) differs by channel alone."""
    if values.ndim > rank or not np.issubdtype(values.dtype, np.floating):
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    if shape[1] not in (1, channels) or any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    return np.broadcast_to(values.reshape(-1).astype(np.float64), (channels,)).copy()


def _fold(graph: onnx.GraphProto, node: onnx.NodeProto, found: _Affine) -> None:
    known, source, factor = protos.constants(graph), found.source, found.factor
    weight = known[source.input[1]]
    values = protos.array(weight)
    bias = (
        protos.array(known[source.input[2]]).astype(np.float64)
        if _has_bias(source)
        else np.zeros_like(factor)
    )
    if source.op_type == "Gemm":
        bias = bias * protos.number(source, "beta", 1.0)
        protos.set_attribute(source, "beta", 1.0)
    axis, blocks = _output_axis(source)
    folded = _scale(values.astype(np.float64), factor, axis, blocks).astype(values.dtype)
    taken = protos.names(graph)
    weight_name, bias_name = weight.name, protos.fresh(f"{source.name}.bias", taken)
    if protos.uses(graph)[weight.name] > 1:
        weight_name = protos.fresh(weight.name, taken)
    protos.set_constant(graph, weight_name, folded)
    protos.set_constant(graph, bias_name, (factor * bias + found.offset).astype(values.dtype))
    source.input[:] = [source.input[0], weight_name, bias_name]
    source.output[0] = node.output[0]
    graph.node.remove(node)


def _foldable(graph: onnx.GraphProto, source: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> bool:
    if source.op_type not in _SOURCES or source.domain not in ("", "ai.onnx"):
        return False
    if source.input[1] not in known or (_has_bias(source) and source.input[2] not in known):
        return False
    alone = len(protos.consumers(graph)[source.output[0]]) == 1
    return alone and source.output[0] not in protos.outputs(graph)


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
