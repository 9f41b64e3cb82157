"""The ONNX network that fuzzing starts from."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def network():
    """Two convolutions with zero rows and columns, a norm, a residual sum, a linear layer."""
    random = np.random.default_rng(0)

    def constant(name, *shape):
        values = random.standard_normal(shape).astype(np.float32)
        if values.ndim == 4:
            values[1], values[:, 0, 0] = 0, 0
        return numpy_helper.from_array(values, name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "s", "t", "m", "v"], ["n1"], "norm"),
        helper.make_node("Relu", ["n1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1], group=2),
        helper.make_node("Add", ["c2", "r1"], ["a"], "add"),
        helper.make_node("GlobalAveragePool", ["a"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "fc", transB=1),
    ]
    weights = [constant("w1", 4, 2, 3, 3), constant("b1", 4), constant("w2", 4, 2, 3, 3)]
    weights += [constant(name, 4) for name in "stmv"] + [constant("w3", 5, 4), constant("b3", 5)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
