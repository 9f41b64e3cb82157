"""One layer as an ONNX model of its own, with fewer filters and channels, or with dead columns."""

from __future__ import annotations

import numpy as np
import onnx

_AXES = {"Conv": (0, 1), "ConvTranspose": (1, 0)}


def narrowed(
    piece: onnx.ModelProto, filters: int, channels: int, *, depthwise: bool = False
) -> onnx.ModelProto:
    """The layer of ``piece`` with the first ``filters`` filters and ``channels`` input channels.

    Args:
        piece: a model of one node with constant weight; its input has a fixed shape.
        filters: to keep.
        channels: to keep; of a depthwise convolution those of each group, which is 1.
        depthwise: whether each filter reads a channel of its own that no other reads.
    """
    model = onnx.ModelProto()
    model.CopyFrom(piece)
    graph = model.graph
    (node,) = graph.node
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weight = next(tensors[name] for name in node.input[:2] if name in tensors)
    rows, columns = (0, 1) if depthwise else _axes(node)
    values = onnx.numpy_helper.to_array(weight)
    values = values.take(range(filters), rows).take(range(channels), columns)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), weight.name))
    if len(node.input) > 2 and node.input[2] in tensors:
        bias = tensors[node.input[2]]
        shorter = onnx.numpy_helper.to_array(bias)[..., :filters]
        bias.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(shorter), bias.name))
    convolution = node.op_type in _AXES
    for attribute in node.attribute:
        if attribute.name == "group" and depthwise:
            attribute.i = filters
    for value, size in ((graph.input[0], filters if depthwise else channels), (graph.output[0], filters)):
        dims = value.type.tensor_type.shape.dim
        (dims[1] if convolution else dims[-1]).dim_value = size
    return model


def masked(piece: onnx.ModelProto, share: float, seed: int = 0) -> onnx.ModelProto:
    """The convolution of ``piece`` with a share of its columns (channel, place in the kernel) live."""
    model = onnx.ModelProto()
    model.CopyFrom(piece)
    (node,) = model.graph.node
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    values = onnx.numpy_helper.to_array(weight).copy()
    flat = values.reshape(len(values), -1)
    flat[flat == 0] = 1e-3  # what is zero already would be dead besides
    order = np.random.default_rng(seed).permutation(flat.shape[1])
    flat[:, order[max(1, round(share * flat.shape[1])) :]] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    return model


def _axes(node: onnx.NodeProto) -> tuple[int, int]:
    """The axes of filters and of input channels in the weight."""
    if node.op_type in _AXES:
        return _AXES[node.op_type]
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return (0, 1) if transposed else (1, 0)
