from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def _constant(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(len(name) + sum(shape)).standard_normal(shape, dtype=np.float32)
    return numpy_helper.from_array(values, name)


def make_model(nodes, constants, *, batch="batch", channels=3, inputs=None) -> bytes:
    """A serialised model that reads ``x`` (batch, channels, 8, 8) and writes ``y``."""
    graph = helper.make_graph(
        nodes,
        "test",
        inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, channels, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


@pytest.fixture
def network() -> bytes:
    """conv a -> relu -> grouped strided conv b -> flatten -> linear c."""
    nodes = [
        helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["p"], name="a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["p"], ["q"], name="relu"),
        helper.make_node("Conv", ["q", "b.weight"], ["r"], name="b", group=2, strides=[2, 2]),
        helper.make_node("Flatten", ["r"], ["s"], name="flatten"),
        helper.make_node("Gemm", ["s", "c.weight"], ["y"], name="c", transB=1),
    ]
    constants = [
        _constant("a.weight", 4, 3, 3, 3),
        _constant("a.bias", 4),
        _constant("b.weight", 6, 2, 2, 2),
        _constant("c.weight", 5, 96),
    ]
    return make_model(nodes, constants)


@pytest.fixture
def lowered() -> bytes:
    """The same with conv b put as two nodes, and conv a renamed but reading and writing the same tensors."""
    nodes = [
        helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["p"], name="other", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["p"], ["q"], name="relu"),
        helper.make_node("Gather", ["q", "b/live"], ["b/chosen"], name="b/gather", axis=1),
        helper.make_node("Conv", ["b/chosen", "b/weight"], ["r"], name="b/conv", strides=[2, 2]),
        helper.make_node("Flatten", ["r"], ["s"], name="flatten"),
        helper.make_node("Gemm", ["s", "c.weight"], ["y"], name="c", transB=1),
    ]
    constants = [
        _constant("a.weight", 4, 3, 3, 3),
        _constant("a.bias", 4),
        numpy_helper.from_array(np.array([0, 2], np.int64), "b/live"),
        _constant("b/weight", 6, 2, 2, 2),
        _constant("c.weight", 5, 96),
    ]
    return make_model(nodes, constants)
