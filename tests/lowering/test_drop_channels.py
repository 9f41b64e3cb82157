"""Dead filters go with their readers, and only where that is exact."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sslcli.lowering import check
from sslcli.lowering.clean import clean
from sslcli.lowering.drop_channels import drop_channels


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


def pair(between: list[onnx.NodeProto], last: str = "b") -> list[onnx.NodeProto]:
    return [
        helper.make_node("Conv", ["x", "w", "bias"], ["a"], name="first", pads=[1, 1, 1, 1]),
        *between,
        helper.make_node("Conv", [last, "v"], ["y"], name="second", pads=[1, 1, 1, 1]),
    ]


def constants(dead_rows: list[int] = (), unread: list[int] = ()) -> dict[str, np.ndarray]:
    weight, bias, reader = floats(10, 4, 3, 3), floats(10), floats(5, 10, 3, 3)
    weight[list(dead_rows)] = 0
    bias[list(dead_rows)] = 0
    reader[:, list(unread)] = 0
    return {"w": weight, "bias": bias, "v": reader}


def widths(changed: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in changed.graph.initializer}


def equal(given: onnx.ModelProto, changed: onnx.ModelProto) -> bool:
    onnx.checker.check_model(changed, full_check=True)
    feeds = check.fresh_feeds(given, batch_size=2)
    return check.worst_error(check.run(given, feeds), check.run(changed, feeds)) < 2e-6


RELU = [helper.make_node("Relu", ["a"], ["b"], name="relu")]


@pytest.mark.parametrize(
    "between",
    [
        RELU,
        [helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])],
        [helper.make_node("AveragePool", ["a"], ["b"], kernel_shape=[2, 2])],
        [helper.make_node("Clip", ["a", "zero", "six"], ["b"])],
    ],
)
def test_zero_and_unread_filters_go(between: list[onnx.NodeProto]) -> None:
    extra = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    given = model(pair(between), {**constants([1, 4], [5]), **extra})
    changed, gone = drop_channels(given)
    assert gone == {"first": 3}
    assert {k: v for k, v in widths(changed).items() if k in ("w", "bias", "v")} == {
        "w": (7, 4, 3, 3),
        "bias": (7,),
        "v": (5, 7, 3, 3),
    }
    assert equal(given, changed)


def test_counts_are_rounded_up_by_filters_that_stay() -> None:
    given = model(pair(RELU), constants([1, 4], [5]))
    changed, gone = drop_channels(given, block=4)
    assert gone == {"first": 2}
    assert widths(changed)["w"] == (8, 4, 3, 3)
    assert equal(given, changed)


def test_a_zero_filter_stays_where_zero_becomes_something_else() -> None:
    sigmoid = [helper.make_node("Sigmoid", ["a"], ["b"])]
    changed, gone = drop_channels(model(pair(sigmoid), constants([1, 4], [5])))
    assert gone == {"first": 1}
    assert equal(model(pair(sigmoid), constants([1, 4], [5])), changed)


def test_a_filter_with_a_bias_is_not_zero() -> None:
    values = constants([1])
    values["bias"][1] = 0.5
    assert drop_channels(model(pair(RELU), values))[1] == {}


@pytest.mark.parametrize(
    "between",
    [
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_node("Softmax", ["a"], ["b"], axis=1)],
        [helper.make_node("Transpose", ["a"], ["b"], perm=[0, 1, 3, 2])],
        [helper.make_node("ReduceMean", ["a"], ["m"]), helper.make_node("Mul", ["a", "m"], ["b"])],
    ],
)
def test_a_value_that_other_operators_read_stays_whole(between: list[onnx.NodeProto]) -> None:
    assert drop_channels(model(pair(between), constants([1], [5])))[1] == {}


def test_a_filter_that_another_convolution_reads_stays() -> None:
    nodes = [
        *pair(RELU),
        helper.make_node("Conv", ["b", "u"], ["z"], name="third", pads=[1, 1, 1, 1]),
    ]
    nodes[2].output[0] = "y2"
    nodes.append(helper.make_node("Add", ["y2", "z"], ["y"]))
    values = {**constants([], [5, 6]), "u": floats(5, 10, 3, 3)}
    values["u"][:, 6] = 0
    given = model(nodes, values)
    changed, gone = drop_channels(given)
    assert gone == {"first": 1}
    assert equal(given, changed)


@pytest.mark.parametrize("flat", ["Flatten", "Reshape"])
def test_columns_of_a_product_after_flattening_go_with_their_channel(flat: str) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "bias"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node(flat, ["b", "shape"] if flat == "Reshape" else ["b"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["y"], name="last", transB=1),
    ]
    values = {**constants([1, 4]), "v": floats(3, 160), "shape": np.array([-1, 160])}
    values["v"][:, 16 * 7 : 16 * 8] = 0
    if flat == "Flatten":
        del values["shape"]
    given = model(nodes, values)
    changed, gone = drop_channels(given)
    assert gone == {"first": 3}
    assert widths(changed)["v"] == (3, 112)
    assert equal(given, changed)


def test_what_leaves_the_graph_stays_whole() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="first")]
    assert drop_channels(model(nodes, {"w": np.zeros((6, 4, 3, 3), np.float32)}))[1] == {}


def test_a_shared_weight_stays_whole() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w"], ["y"], name="second", pads=[1, 1, 1, 1]),
    ]
    weight = floats(4, 4, 3, 3)
    weight[1] = 0
    assert drop_channels(model(nodes, {"w": weight}))[1] == {}


def test_groups_of_producer_and_reader_stay_equal() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "bias"], ["a"], name="first", group=2, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["y"], name="second", group=4),
    ]
    weight, reader = floats(24, 2, 3, 3), floats(8, 6, 3, 3)
    weight[[0, 1, 2, 7, 13, 14, 20]] = 0
    reader[2:4, 3] = 0  # the second group's fourth channel: filter 9
    given = model(nodes, {"w": weight, "bias": np.zeros(24, np.float32), "v": reader})
    changed, gone = drop_channels(given)
    # Dead: 3, 2, 2 and 1 in the four sixes; each block keeps five.
    assert gone == {"first": 4}
    assert widths(changed)["w"] == (20, 2, 3, 3)
    assert widths(changed)["v"] == (8, 5, 3, 3)
    assert equal(given, changed)


def test_depthwise_readers_keep_every_filter() -> None:
    nodes = pair(RELU)
    nodes[2].attribute.append(helper.make_attribute("group", 10))
    values = {**constants([1, 4]), "v": floats(10, 1, 3, 3)}
    assert drop_channels(model(nodes, values))[1] == {}


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Two or three convolutions with zeros anywhere, activations between, perhaps a product at the end."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    value, channels = "x", 4
    for index in range(draw(st.integers(2, 3))):
        groups = draw(st.sampled_from([1, 1, *(count for count in (2, channels) if channels % count == 0)]))
        filters = groups * draw(st.integers(1, 4))
        weight = random.standard_normal((filters, channels // groups, 3, 3)).astype(np.float32)
        weight[random.random(filters) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
        weight[:, random.random(channels // groups) < draw(st.sampled_from([0.0, 0.5]))] = 0
        bias = random.standard_normal(filters).astype(np.float32)
        if draw(st.booleans()):
            bias *= weight.reshape(filters, -1).any(1)
        constants |= {f"w{index}": weight, f"b{index}": bias}
        inputs = [value, f"w{index}", f"b{index}"]
        nodes.append(
            helper.make_node("Conv", inputs, [f"c{index}"], name=f"c{index}", group=groups, pads=[1] * 4)
        )
        op = draw(st.sampled_from(["Relu", "Sigmoid", "Tanh", "Identity"]))
        nodes.append(helper.make_node(op, [f"c{index}"], [f"a{index}"], name=f"a{index}"))
        value, channels = f"a{index}", filters
    if draw(st.booleans()):
        constants["fc"] = random.standard_normal((5, channels * 36)).astype(np.float32)
        nodes.append(helper.make_node("Flatten", [value], ["flat"], name="flat"))
        nodes.append(helper.make_node("Gemm", ["flat", "fc"], ["y"], name="fc", transB=1))
    else:
        nodes.append(helper.make_node("Relu", [value], ["y"], name="end"))
    return clean(model(nodes, constants))


@settings(max_examples=60, deadline=None)
@given(networks(), st.sampled_from([1, 2, 16]))
def test_any_network_computes_the_same_without_its_dead_filters(network: onnx.ModelProto, block: int) -> None:
    changed, gone = drop_channels(network, block=block)
    assert equal(network, changed)
    before, after = widths(network), widths(changed)
    for layer, count in gone.items():
        weight = next(node.input[1] for node in network.graph.node if node.name == layer)
        assert before[weight][0] - after[weight][0] == count > 0


@pytest.mark.parametrize("rows_first", [True, False])
@pytest.mark.parametrize("reader", ["Gemm", "MatMul"])
def test_dead_rows_of_a_product_go_with_the_columns_that_read_them(rows_first: bool, reader: str) -> None:
    weight, bias, second = floats(10, 144), floats(10), floats(10, 5)
    weight[:6], bias[:6] = 0, 0
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w", "bias"], ["a"], name="first", transB=int(rows_first)),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node(reader, ["b", "v"], ["y"], name="second"),
    ]
    first = np.ascontiguousarray(weight if rows_first else weight.T)
    given = model(nodes, {"w": first, "bias": bias, "v": second})
    changed, gone = drop_channels(given)
    assert gone == {"first": 6}
    assert widths(changed) == {"w": (4, 144) if rows_first else (144, 4), "bias": (4,), "v": (4, 5)}
    assert equal(given, changed)
