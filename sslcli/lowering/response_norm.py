"""Pass: the LRN operator as an average over channels: 6 to 12 times as fast by ONNX Runtime on the CPU."""

from __future__ import annotations

import numpy as np
import onnx

from sslcli.lowering import protos
from sslcli.lowering.fragments import Builder, replace_node
from sslcli.lowering.powers import simplify_powers
from sslcli.lowering.protos import Array, Attribute
from sslcli.lowering.sites import infer_shapes


def expand_response_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every LRN of images is written out; the model itself if it has none.

    y = x / (bias + alpha mean(x^2 over ``size`` channels around))^beta, zeros beyond the first and the last
    channel. Equal to rounding.
    """
    shapes = infer_shapes(model)
    norms = [node for node in model.graph.node if node.op_type == "LRN" and node.domain in ("", "ai.onnx")]
    for norm in norms:
        if len(shapes.get(norm.input[0], ())) == 4:
            model = _written_out(model, norm)
    return model


def _written_out(model: onnx.ModelProto, norm: onnx.NodeProto) -> onnx.ModelProto:
    builder = Builder(norm.name, (norm.input[0], norm.output[0]))

    def scalar(name: str, default: float) -> str:
        return builder.constant(_float(protos.number(norm, name, default)), name)

    size = protos.integer(norm, "size", 1)
    before = (size - 1) // 2
    axis = builder.constant(np.array([1], np.int64), "axis")
    source = norm.input[0]
    squares = builder.node("Unsqueeze", [builder.node("Mul", [source, source]), axis])
    window: dict[str, Attribute] = {
        "kernel_shape": [size, 1, 1],
        "pads": [before, 0, 0, size - 1 - before, 0, 0],
        "count_include_pad": 1,
    }
    mean = builder.node("Squeeze", [builder.node("AveragePool", [squares], window), axis])
    scaled = builder.node("Mul", [mean, scalar("alpha", 1e-4)])
    base = builder.node("Add", [scaled, scalar("bias", 1.0)])
    power = builder.node("Pow", [base, scalar("beta", 0.75)])
    builder.node("Div", [source, power])
    return simplify_powers(replace_node(model, norm.name, builder.finish(norm.output[0])))


def _float(value: float) -> Array:
    # The attribute is a float32 that reading widened; 0.75 must be itself again.
    return np.array(value, np.float32)
