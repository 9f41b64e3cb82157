from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from sslcli.bench.columns import ConvGeometry, conv_geometry
from sslcli.bench.graphs import shaped_graph
from sslcli.bench.inputs import RunSettings
from sslcli.bench.sessions import bind
from sslcli.bench.unstructured import (
    CsrConvolution,
    live_weights,
    random_weight,
    require_torch_device,
    torch_threads,
)
from sslcli.errors import DeviceError


def conv_model(space: int, batch: int, channels: int, filters: int, groups: int, **attributes) -> bytes:
    kernel = tuple(range(1, space + 1))[::-1]
    weight = helper.make_tensor(
        "w",
        TensorProto.FLOAT,
        [filters, channels // groups, *kernel],
        np.zeros((filters, channels // groups, *kernel), np.float32).ravel(),
    )
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="a", group=groups, **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, channels, *(9, 8, 7)[:space]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_csr_convolution_equals_the_dense_one(data):
    space = data.draw(st.integers(1, 3))
    groups = data.draw(st.sampled_from([1, 2]))
    size = st.integers(1, 3)
    axes = st.lists(size, min_size=space, max_size=space)
    attributes = {"strides": data.draw(axes)}
    mode = data.draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if mode == "NOTSET":
        attributes["dilations"] = data.draw(axes)
        attributes["pads"] = data.draw(st.lists(st.integers(0, 2), min_size=2 * space, max_size=2 * space))
    else:
        attributes["auto_pad"] = mode
    proto = conv_model(space, data.draw(size), 4, 6, groups, **attributes)
    graph = shaped_graph(proto.SerializeToString(), RunSettings(batch_size=None))
    geometry = conv_geometry(graph, graph.nodes[0])
    weight = random_weight(geometry.weight, data.draw(st.integers(0, 40)), groups, seed=1)
    image = np.random.default_rng(2).standard_normal(geometry.image, dtype=np.float32)
    proto.graph.initializer[0].raw_data = weight.tobytes()
    proto.graph.initializer[0].ClearField("float_data")
    dense = bind(proto.SerializeToString(), RunSettings(batch_size=None), {"x": image})
    dense.run()
    csr = CsrConvolution(weight, image, geometry)
    csr.run()
    np.testing.assert_allclose(csr.result(), dense.outputs()[0], rtol=1e-4, atol=1e-4)


def test_random_weight_has_as_many_places_as_asked_for():
    weight = random_weight((6, 4, 3, 3), live=75, groups=2, seed=0)
    assert np.count_nonzero(weight) == 75
    halves = [np.count_nonzero(half) for half in (weight[:3], weight[3:])]
    assert sorted(halves) == [37, 38]
    assert np.count_nonzero(random_weight((2, 2), live=99, groups=1, seed=0)) == 4


def test_one_hot_kernels_are_not_counted_as_weights(network):
    graph = shaped_graph(network, RunSettings())
    conv_b = graph.nodes[2]
    assert live_weights(graph, [conv_b]) == 6 * 2 * 2 * 2
    shift = np.zeros((4, 1, 3, 3), np.float32)
    shift[:, 0, 1, 2] = 1
    graph.constants["b.weight"].CopyFrom(
        helper.make_tensor("b.weight", TensorProto.FLOAT, shift.shape, shift.ravel())
    )
    assert live_weights(graph, [conv_b]) == 0


def test_threads_are_put_back():
    before = torch.get_num_threads()

    def failing() -> None:
        with torch_threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        failing()
    assert torch.get_num_threads() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this torch has CUDA")
def test_cusparse_without_cuda_is_exit_8():
    require_torch_device("cpu")
    with pytest.raises(DeviceError, match="has no CUDA") as caught:
        require_torch_device("cuda")
    assert caught.value.exit_code == 8


def test_geometry_of_other_operators_is_none(network):
    graph = shaped_graph(network, RunSettings(batch_size=2))
    found = [conv_geometry(graph, node) for node in graph.nodes]
    assert found[2] == ConvGeometry((6, 2, 2, 2), (2, 4, 8, 8), (4, 4), (2, 2), (1, 1), (0, 0), 2)
    assert [item is None for item in found] == [False, True, False, True, True]
