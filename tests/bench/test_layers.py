from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from sslcli.bench.graphs import between, cut, fixed_batch, macs, reads, shaped_graph
from sslcli.bench.inputs import RunSettings
from sslcli.bench.layers import match_layers
from sslcli.bench.sessions import bind
from sslcli.errors import InputError, ModelError, UsageError


def run(model: bytes, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def every_value(model: bytes, x: np.ndarray) -> dict[str, np.ndarray]:
    """All intermediate values of a whole model."""
    proto = onnx.load_from_string(model)
    for node in proto.graph.node:
        for name in node.output:
            if name != "y":
                proto.graph.output.append(helper.make_empty_tensor_value_info(name))
    return run(proto.SerializeToString(), {"x": x}) | {"x": x}


def test_cut_layers_compute_what_they_compute_in_the_whole_model(network, lowered):
    x = np.random.default_rng(0).standard_normal((3, 3, 8, 8), dtype=np.float32)
    graphs = [shaped_graph(model, RunSettings(batch_size=3)) for model in (network, lowered)]
    pairs, notes = match_layers(graphs[0], graphs[1:])
    assert [pair.base.name for pair in pairs] == ["a", "b", "c"]
    assert notes == []
    for pair in pairs:
        for layer, model in zip((pair.base, pair.others[0]), (network, lowered), strict=True):
            values = every_value(model, x)
            session = ort.InferenceSession(layer.model, providers=["CPUExecutionProvider"])
            feed = {item.name: values[item.name] for item in session.get_inputs()}
            assert [tuple(item.shape) for item in session.get_inputs()] == [v.shape for v in feed.values()]
            ((name, result),) = run(layer.model, feed).items()
            np.testing.assert_allclose(result, values[name], rtol=1e-5, atol=1e-5)


def test_lowered_layers_are_found_by_prefix_or_by_their_tensors(network, lowered):
    graphs = [shaped_graph(model, RunSettings()) for model in (network, lowered)]
    pairs, _ = match_layers(graphs[0], graphs[1:])
    found = {pair.base.name: [node.name for node in pair.others[0].nodes] for pair in pairs}
    assert found == {"a": ["other"], "b": ["b/gather", "b/conv"], "c": ["c"]}


def test_layer_that_went_is_none(network):
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="relu")]
    graph = helper.make_graph(
        nodes,
        "empty",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    empty = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    pairs, _ = match_layers(
        shaped_graph(network, RunSettings()), [shaped_graph(empty, RunSettings())], "[ab]"
    )
    assert [pair.others for pair in pairs] == [(None,), (None,)]


def test_macs_are_counted_by_hand(network, lowered):
    graph = shaped_graph(network, RunSettings(batch_size=2))
    conv_a = 2 * 4 * 8 * 8 * 3 * 9
    conv_b = 2 * 6 * 4 * 4 * 2 * 4
    linear = 2 * 5 * 96
    pairs, _ = match_layers(graph, [])
    assert [pair.base.macs for pair in pairs] == [conv_a, conv_b, linear]
    assert macs(graph, graph.nodes) == conv_a + conv_b + linear


def test_glob_chooses_layers_and_one_that_matches_nothing_is_an_error(network):
    graph = shaped_graph(network, RunSettings())
    assert [pair.base.name for pair in match_layers(graph, [], "[bc]")[0]] == ["b", "c"]
    with pytest.raises(UsageError, match=r"--layers z\* matches no layer; the model has a, b, c"):
        match_layers(graph, [], "z*")


def test_a_name_is_not_read_as_a_glob(network):
    proto = onnx.load_from_string(network)
    for node, name in zip(proto.graph.node, ["layer[0]", "relu", "layer0", "flatten", "*"], strict=True):
        node.name = name
    graph = shaped_graph(proto.SerializeToString(), RunSettings())
    chosen = {"layer[0]": ["layer[0]"], "layer?": ["layer0"], "*": ["layer[0]", "layer0", "*"]}
    for glob, names in chosen.items():
        assert [pair.base.name for pair in match_layers(graph, [], glob)[0]] == names


def test_constants_that_nodes_compute_come_along():
    nodes = [
        helper.make_node("Identity", ["w"], ["v"], name="alias"),
        helper.make_node("Conv", ["x", "v"], ["y"], name="a"),
    ]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 3, 1, 1], np.ones(6, np.float32))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    shaped = shaped_graph(model.SerializeToString(), RunSettings())
    piece = onnx.load_from_string(cut(shaped, [shaped.nodes[1]]))
    assert [item.name for item in piece.graph.input] == ["x"]
    assert [node.name for node in piece.graph.node] == ["alias", "a"]


def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    """A sub-graph that writes ``name``."""
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])


@pytest.fixture
def branching() -> onnx.ModelProto:
    """conv a -> an If whose condition is constant and whose branches capture a's output and a weight."""
    flag = helper.make_tensor("flag", TensorProto.BOOL, [], [True])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 2, 1, 1], np.ones(4, np.float32))
    taken = branch("t", helper.make_node("Conv", ["p", "w"], ["t"], name="inner"))
    other = branch("e", helper.make_node("Relu", ["p"], ["e"]))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["p"], name="a"),
        helper.make_node("If", ["flag"], ["q"], name="choose", then_branch=taken, else_branch=other),
        helper.make_node("Conv", ["q", "w"], ["y"], name="b"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [flag, weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_what_sub_graphs_capture_is_read(branching):
    assert [reads(node) for node in branching.graph.node] == [{"x", "w"}, {"flag", "p", "w"}, {"q", "w"}]


def test_a_layer_that_only_a_branch_reads_is_cut_with_its_output(branching):
    shaped = shaped_graph(branching.SerializeToString(), RunSettings())
    pairs, notes = match_layers(shaped, [])
    assert ([pair.base.name for pair in pairs], notes) == (["a", "b"], [])
    x = np.arange(18, dtype=np.float32).reshape(1, 2, 3, 3)
    (result,) = run(pairs[0].base.model, {"x": x}).values()
    np.testing.assert_allclose(result[0, 0], x.sum(axis=1)[0])


def test_a_branch_that_captures_a_computed_value_is_no_constant(branching):
    shaped = shaped_graph(branching.SerializeToString(), RunSettings())
    piece = onnx.load_from_string(cut(shaped, [shaped.nodes[2]]))
    assert [node.name for node in piece.graph.node] == ["b"]
    assert [item.name for item in piece.graph.input] == ["q"]


def test_what_a_branch_captures_comes_into_a_cut(branching):
    shaped = shaped_graph(branching.SerializeToString(), RunSettings())
    piece = cut(shaped, [shaped.nodes[1]])
    x = np.arange(18, dtype=np.float32).reshape(1, 2, 3, 3)
    (result,) = run(piece, {"p": x}).values()
    np.testing.assert_allclose(result[0, 1], x.sum(axis=1)[0])


def test_between_follows_what_branches_capture(branching):
    graph = shaped_graph(branching.SerializeToString(), RunSettings())
    assert [node.name for node in between(graph, "x", "q")] == ["a", "choose"]


def test_a_layer_that_nobody_reads_is_left_out(branching):
    branching.graph.node.append(helper.make_node("Conv", ["x", "w"], ["nowhere"], name="dead"))
    pairs, notes = match_layers(shaped_graph(branching.SerializeToString(), RunSettings()), [])
    assert [pair.base.name for pair in pairs] == ["a", "b"]
    assert notes == ["dead is left out: nothing in the model reads what it computes"]


def test_between_says_no_where_another_input_is_needed(network):
    graph = shaped_graph(network, RunSettings())
    assert [node.name for node in between(graph, "p", "r")] == ["relu", "b"]
    assert between(graph, "r", "q") is None


def test_weights_in_external_files_are_read(network, tmp_path):
    path = tmp_path / "big.onnx"
    onnx.save(
        onnx.load_from_string(network), path, save_as_external_data=True, location="big.bin", size_threshold=0
    )
    pairs, _ = match_layers(shaped_graph(path, RunSettings()), [])
    inside, _ = match_layers(shaped_graph(network, RunSettings()), [])
    for one, two in zip(pairs, inside, strict=True):
        a, b = (bind(pair.base.model, fixed_batch(RunSettings())) for pair in (one, two))
        a.run()
        b.run()
        np.testing.assert_array_equal(a.outputs()[0], b.outputs()[0])


def test_batch_that_the_model_does_not_take_is_an_error(network):
    proto = onnx.load_from_string(network)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(InputError, match="input x has a fixed batch of 1, not 4") as caught:
        shaped_graph(proto.SerializeToString(), RunSettings(batch_size=4))
    assert caught.value.exit_code == 3


def test_open_axes_need_an_input_shape(network):
    proto = onnx.load_from_string(network)
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    model = proto.SerializeToString()
    with pytest.raises(InputError, match="leaves axes beside the batch open"):
        shaped_graph(model, RunSettings())
    with pytest.raises(InputError, match="input x has 3 axes beside the batch, --input-shape 2"):
        shaped_graph(model, RunSettings(input_shape=(8, 8)))
    graph = shaped_graph(model, RunSettings(input_shape=(3, 8, 8)))
    assert graph.types["q"].shape == (1, 4, 8, 8)


def test_file_that_is_no_model_is_a_model_error(tmp_path):
    path = tmp_path / "text.onnx"
    path.write_text("no protobuf at all")
    with pytest.raises(ModelError, match="is not an ONNX model"):
        shaped_graph(path, RunSettings())
    with pytest.raises(ModelError, match="cannot read"):
        shaped_graph(tmp_path / "absent.onnx", RunSettings())


def test_model_without_layers_has_none_to_time():
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    shaped = shaped_graph(model.SerializeToString(), RunSettings())
    assert match_layers(shaped, []) == ([], ["the base has no layer with weights"])
    with pytest.raises(UsageError):
        match_layers(shaped, [], "conv*")


def test_functions_of_the_model_come_along_with_a_cut():
    double = helper.make_function(
        "own", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Double", ["x"], ["d"], domain="own", name="a/double"),
        helper.make_node("Conv", ["d", "w"], ["y"], name="a/conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, [2, 2, 1, 1], np.ones(4, np.float32))],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[double], ir_version=9)
    shaped = shaped_graph(model.SerializeToString(), RunSettings())
    x = np.arange(18, dtype=np.float32).reshape(1, 2, 3, 3)
    (result,) = run(cut(shaped, shaped.nodes), {"x": x}).values()
    np.testing.assert_allclose(result[0, 0], 2 * x.sum(axis=1)[0])
