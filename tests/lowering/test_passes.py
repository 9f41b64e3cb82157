"""The passes over ONNX: tidying, folding norms, precision."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sslcli.lowering import check
from sslcli.lowering.clean import clean
from sslcli.lowering.fold_norm import fold_norm
from sslcli.lowering.powers import simplify_powers
from sslcli.lowering.response_norm import expand_response_norms


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    shape: tuple[int, ...] = (2, 4, 5, 5),
    outputs: tuple[str, ...] = ("y",),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


def floats(*shape: int, low: float = -1.0) -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(low, 1, shape).astype(np.float32)


def norm_constants(count: int) -> dict[str, np.ndarray]:
    return {
        "scale": floats(count),
        "shift": floats(count),
        "mean": floats(count),
        "var": floats(count, low=0.1),
    }


CASES = {
    "Conv": ((6, 2, 3, 3), {"group": 2}, 6),
    "ConvTranspose": ((4, 3, 2, 2), {"group": 2}, 6),
    "Conv without groups": ((6, 4, 3, 3), {}, 6),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_a_norm_is_folded_into_the_convolution_before_it(case: str, bias: bool) -> None:
    shape, attributes, filters = CASES[case]
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    nodes = [
        helper.make_node(case.split()[0], inputs, ["c"], name="c", **attributes),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["y"]),
    ]
    constants = {"w": floats(*shape), **({"b": floats(filters)} if bias else {}), **norm_constants(filters)}
    given = model(nodes, constants)
    feeds = {"x": floats(2, 4, 5, 5)}
    expected = check.run(given, feeds)
    folded = fold_norm(given)
    assert [node.op_type for node in folded.graph.node] == [case.split()[0]]
    assert len(folded.graph.initializer) == 2
    assert check.worst_error(expected, check.run(folded, feeds)) < 1e-6


def test_a_norm_after_gemm_is_folded_with_its_scaling() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["c"], name="c", alpha=0.5, beta=2.0, transB=1),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["y"]),
    ]
    given = model(nodes, {"w": floats(6, 4), "b": floats(6), **norm_constants(6)}, (3, 4))
    feeds = {"x": floats(3, 4)}
    expected = check.run(given, feeds)
    folded = fold_norm(given)
    assert len(folded.graph.node) == 1
    assert check.worst_error(expected, check.run(folded, feeds)) < 1e-6


def test_a_convolution_that_others_read_keeps_its_norm() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="c"),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Add", ["c", "n"], ["y"]),
    ]
    folded = fold_norm(model(nodes, {"w": floats(6, 4, 3, 3), **norm_constants(6)}))
    assert [node.op_type for node in folded.graph.node] == ["Conv", "BatchNormalization", "Add"]


def test_a_shared_weight_is_folded_for_one_reader_only() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="c"),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Conv", ["x", "w"], ["d"], name="d"),
        helper.make_node("Add", ["n", "d"], ["y"]),
    ]
    given = model(nodes, {"w": floats(6, 4, 3, 3), **norm_constants(6)})
    feeds = {"x": floats(2, 4, 5, 5)}
    expected = check.run(given, feeds)
    folded = fold_norm(given)
    assert "BatchNormalization" not in {node.op_type for node in folded.graph.node}
    assert check.worst_error(expected, check.run(folded, feeds)) < 1e-6


def test_constants_become_initialisers_and_dead_parts_go() -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(floats(6, 4, 3, 3))),
        helper.make_node("Constant", [], ["unused"], value_float=1.0),
        helper.make_node("Identity", ["x"], ["i"]),
        helper.make_node("Conv", ["i", "w"], ["c"], doc_string="a path"),
        helper.make_node("Relu", ["c"], ["dead"]),
        helper.make_node("Identity", ["c"], ["y"]),
    ]
    given = model(nodes, {"spare": floats(3)})
    feeds = {"x": floats(2, 4, 5, 5)}
    expected = check.run(given, feeds)
    tidy = clean(given)
    assert [(n.op_type, list(n.input), list(n.output)) for n in tidy.graph.node] == [
        ("Conv", ["x", "w"], ["y"])
    ]
    assert [tensor.name for tensor in tidy.graph.initializer] == ["w"]
    assert tidy.graph.node[0].doc_string == ""
    assert check.worst_error(expected, check.run(tidy, feeds)) == 0


def test_an_identity_from_input_to_output_stays() -> None:
    tidy = clean(model([helper.make_node("Identity", ["x"], ["y"])], {}))
    assert [node.op_type for node in tidy.graph.node] == ["Identity"]


def test_nodes_are_called_after_their_weights_once_each() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "layer.weight"], ["a"]),
        helper.make_node("Conv", ["x", "layer.weight"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    tidy = clean(model(nodes, {"layer.weight": floats(6, 4, 3, 3)}))
    assert [node.name for node in tidy.graph.node] == ["layer", "layer_2", "Add_2"]


@pytest.mark.parametrize(
    ("exponent", "operators"),
    [(0.5, ["Sqrt"]), (0.25, ["Sqrt"] * 2), (0.75, ["Sqrt", "Sqrt", "Mul"]), (0.7, ["Pow"]), (2.0, ["Pow"])],
)
def test_powers_by_quarters_become_roots(exponent: float, operators: list[str]) -> None:
    constants = {"e": np.array(exponent, np.float32)}
    given = model([helper.make_node("Pow", ["x", "e"], ["y"])], constants)
    changed = simplify_powers(clean(onnx.ModelProto.FromString(given.SerializeToString())))
    assert [node.op_type for node in changed.graph.node] == operators
    x = np.resize(np.array([0.0, -1.0, 1e-30, 3.0, 1e30, np.inf], np.float32), (2, 4, 5, 5))
    assert check.worst_error(check.run(given, {"x": x}), check.run(changed, {"x": x})) < 1e-6


def test_an_exponent_that_lends_its_shape_stays() -> None:
    constants = {"e": np.full((1, 1, 1, 1, 1), 0.5, np.float32)}
    changed = simplify_powers(clean(model([helper.make_node("Pow", ["x", "e"], ["y"])], constants)))
    assert [node.op_type for node in changed.graph.node] == ["Pow"]


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_a_response_norm_written_out_computes_the_same(size: int, beta: float) -> None:
    node = helper.make_node("LRN", ["x"], ["y"], size=size, alpha=0.5, beta=beta, bias=2.0, name="norm")
    given = clean(model([node], {}, shape=(2, 7, 3, 4)))
    changed = expand_response_norms(given)
    operators = {node.op_type for node in changed.graph.node}
    assert "AveragePool" in operators
    assert "LRN" not in operators
    assert ("Pow" in operators) == (beta == 0.6)
    assert [node.op_type for node in given.graph.node] == ["LRN"]
    onnx.checker.check_model(changed, full_check=True)
    feeds = check.fresh_feeds(given, batch_size=2)
    assert check.worst_error(check.run(given, feeds), check.run(changed, feeds)) < 1e-6


def test_a_response_norm_over_other_axes_stays() -> None:
    given = clean(model([helper.make_node("LRN", ["x"], ["y"], size=3)], {}, shape=(2, 7, 3)))
    assert expand_response_norms(given) is given
