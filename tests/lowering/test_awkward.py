"""Valid ONNX that is easily taken for something else: shared weights, sub-graphs, open axes, odd types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sslcli
from sslcli.bench.inputs import RunSettings
from sslcli.cli.main import main
from sslcli.errors import GraphError, ModelError, OutputError
from sslcli.lowering import check, lower
from sslcli.lowering.files import read_onnx, write_onnx
from sslcli.lowering.from_torch import finish
from sslcli.lowering.pad_channels import pad_channels
from sslcli.lowering.precision import convert
from sslcli.options.export import ExportOptions

CHANNELS = 24
QUICK = RunSettings(budget_s=0.02)
node = helper.make_node


def value(name: str, shape: Sequence[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def kernels() -> dict[str, np.ndarray]:
    """``w1`` (24, 3, 3, 3) without a third of its filters, ``w2`` (24, 24, 3, 3) without half its columns."""
    random = np.random.default_rng(0)
    first = random.standard_normal((CHANNELS, 3, 3, 3)).astype(np.float32)
    second = random.standard_normal((CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    first[:8] = 0
    second[:, random.random((CHANNELS, 3, 3)) < 0.5] = 0
    return {"w1": first, "w2": second * np.float32(0.1)}


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] = (),
    opset: int = 18,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "awkward",
        list(inputs) or [value("x", ["batch", 3, 12, 12])],
        list(outputs) or [value("y", None)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def chain() -> list[onnx.NodeProto]:
    """x, w1 -> Conv, Relu, w2 -> c."""
    return [
        node("Conv", ["x", "w1"], ["a"], name="first"),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2"], ["c"], name="second", pads=[1, 1, 1, 1]),
    ]


def error_of(given: onnx.ModelProto, choice: str, scale: float = 1.0) -> float:
    feeds = {
        name: values * np.float32(scale) for name, values in check.fresh_feeds(given, batch_size=2).items()
    }
    expected = check.run(given, feeds)
    lowered = lower(
        finish(onnx.ModelProto.FromString(given.SerializeToString())), choice=choice, settings=QUICK
    )
    return check.worst_error(expected, check.run(lowered.model, feeds))


def rarely(branch: list[onnx.NodeProto], last: str) -> onnx.ModelProto:
    """The chain's mean over channels where max(x) < 50; else what ``branch`` computes."""
    then = helper.make_graph([node("Identity", ["mean"], ["then"])], "then", [], [value("then", None)])
    other = helper.make_graph(branch, "else", [], [value(last, None)])
    nodes = [
        *chain(),
        node("ReduceMean", ["c", "axes"], ["mean"]),
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Less", ["most", "fifty"], ["usual"]),
        node("If", ["usual"], ["y"], then_branch=then, else_branch=other),
    ]
    return model(nodes, {**kernels(), "axes": np.array([1]), "fifty": np.float32(50)})


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("choice", ["auto", "compact"])
def test_a_weight_that_a_rare_branch_reads_too_keeps_its_filters(choice: str, scale: float) -> None:
    branch = [
        node("Conv", ["x", "w1"], ["e"]),
        node("Softplus", ["e"], ["f"]),
        node("ReduceMean", ["f", "axes"], ["g"]),
    ]
    assert error_of(rarely(branch, "g"), choice, scale) < 1e-5


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_value_that_only_a_branch_reads_stays(scale: float) -> None:
    branch = [node("Softplus", ["a"], ["f"]), node("ReduceMean", ["f", "axes"], ["g"])]
    assert error_of(rarely(branch, "g"), "auto", scale) < 1e-5


def test_two_layers_may_share_a_bias_and_a_weight() -> None:
    weights = kernels() | {"bias": np.ones(CHANNELS, np.float32)}
    two = [node("Conv", ["x", "w1", "bias"], ["a"]), node("Conv", ["a", "w2", "bias"], ["y"])]
    assert error_of(model(two, weights), "auto") < 1e-5
    twice = [node("Conv", ["x", "w2"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "w2"], ["y"])]
    deep = [value("x", ["batch", CHANNELS, 12, 12])]
    assert error_of(model(twice, weights, inputs=deep), "auto") < 1e-5


@pytest.mark.parametrize("bias", [np.ones((1, 20)), np.ones(20), np.float32(1)])
def test_a_product_may_have_its_bias_in_any_shape(bias: np.ndarray) -> None:
    weights = kernels() | {
        "fc": np.random.default_rng(1).standard_normal((20, CHANNELS * 100)).astype(np.float32),
        "bias": bias.astype(np.float32),
    }
    nodes = [*chain(), node("Flatten", ["c"], ["f"]), node("Gemm", ["f", "fc", "bias"], ["y"], transB=1)]
    assert error_of(model(nodes, weights), "auto") < 1e-5


def test_a_view_by_the_batch_size_as_older_exporters_write_it() -> None:
    weights = kernels() | {
        "fc": np.random.default_rng(1).standard_normal((20, CHANNELS * 100)).astype(np.float32),
        "zero": np.array(0),
        "rest": np.array([-1]),
        "axis": np.array([0]),
    }
    nodes = [
        *chain(),
        node("Shape", ["c"], ["sizes"]),
        node("Gather", ["sizes", "zero"], ["batch_size"]),
        node("Unsqueeze", ["batch_size", "axis"], ["batch_axis"]),
        node("Concat", ["batch_axis", "rest"], ["target"], axis=0),
        node("Reshape", ["c", "target"], ["f"]),
        node("Gemm", ["f", "fc"], ["y"], transB=1),
    ]
    assert error_of(model(nodes, weights), "auto") < 1e-5


@pytest.mark.parametrize("choice", ["compact", "shift"])
def test_values_may_have_the_names_that_a_lowering_would_give(choice: str) -> None:
    nodes = [
        node("Relu", ["x"], ["conv/Gather_0"]),
        node("Conv", ["conv/Gather_0", "w1"], ["conv/Conv_1"], name="conv"),
        node("Relu", ["conv/Conv_1"], ["conv/weight_1"]),
        node("Conv", ["conv/weight_1", "w2"], ["y"], name="last"),
    ]
    assert error_of(model(nodes, kernels()), choice) < 1e-5


def test_powers_of_integers_and_of_scalars_stay_powers() -> None:
    nodes = [
        *chain(),
        node("Cast", ["c"], ["whole"], to=TensorProto.INT32),
        node("Abs", ["whole"], ["positive"]),
        node("Pow", ["positive", "half"], ["root"]),
        node("Pow", ["four", "half"], ["two"]),
        node("Cast", ["root"], ["wide"], to=TensorProto.FLOAT),
        node("Mul", ["wide", "two"], ["y"]),
    ]
    constants = kernels() | {"half": np.array([0.5], np.float32), "four": np.float32(4)}
    assert error_of(model(nodes, constants), "compact") < 1e-5


def test_outputs_of_a_runtimes_own_operators_need_no_shape() -> None:
    nodes = [*chain(), node("Gelu", ["c"], ["y"], domain="com.microsoft")]
    given = model(nodes, kernels())
    given.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert error_of(given, "compact") < 1e-5


def test_what_the_file_says_of_open_sizes_is_not_believed() -> None:
    nodes = [*chain(), node("Relu", ["c"], ["y"])]
    given = model(nodes, kernels(), inputs=[value("x", ["batch", 3, "height", "width"])])
    given.graph.value_info.append(value("b", ["batch", CHANNELS, 12, 12]))
    with pytest.raises(ModelError, match="--input-shape"):
        check.references_of(model(nodes[:1], kernels(), inputs=[value("x", ["batch", 3, "h", "w"])]))
    settings = RunSettings(budget_s=0.02, input_shape=(3, 15, 9))
    lowered = lower(finish(given), choice="row-shift", settings=settings)
    for size in ((3, 15, 9), (3, 8, 20)):
        feeds = check.fresh_feeds(given, batch_size=2, input_shape=size)
        assert check.worst_error(check.run(given, feeds), check.run(lowered.model, feeds)) < 1e-5


def test_open_sizes_are_measured_at_the_shape_that_is_given(tmp_path: Path) -> None:
    nodes = [*chain(), node("Relu", ["c"], ["y"])]
    onnx.save(model(nodes, kernels(), inputs=[value("x", ["batch", 3, "h", "w"])]), tmp_path / "in.onnx")
    options = ExportOptions(budget=0.02, cache=False)
    made = sslcli.export(
        tmp_path / "in.onnx", tmp_path / "out.onnx", options=options, input_shape=(3, 16, 16)
    )
    assert any(decision.timings for decision in made.decisions)


def test_sequences_come_out_and_are_told_of_where_they_go_in() -> None:
    nodes = [*chain(), node("SequenceConstruct", ["c", "a"], ["y"])]
    outputs = [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)]
    assert error_of(model(nodes, kernels(), outputs=outputs), "compact") < 1e-5
    taking = [node("SequenceAt", ["s", "first"], ["x"]), *chain(), node("Relu", ["c"], ["y"])]
    inputs = [helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)]
    with pytest.raises(GraphError, match="input s is no tensor"):
        check.references_of(model(taking, kernels() | {"first": np.array(0)}, inputs=inputs))


def test_a_constant_that_is_an_output_too_is_not_folded_into() -> None:
    norm = {name: np.full(CHANNELS, 2, np.float32) for name in ("scale", "shift", "mean", "var")}
    nodes = [
        node("Conv", ["x", "w1"], ["a"]),
        node("BatchNormalization", ["a", *norm], ["y"]),
    ]
    outputs = [value("y", None), value("w1", [CHANNELS, 3, 3, 3])]
    assert error_of(model(nodes, kernels() | norm, outputs=outputs), "compact") < 1e-5


def test_a_model_of_half_precision_is_held_to_half_precision(tmp_path: Path) -> None:
    norm = {name: np.full(CHANNELS, 2, np.float32) for name in ("scale", "shift", "mean", "var")}
    nodes = [
        node("Conv", ["x", "w1"], ["a"]),
        node("BatchNormalization", ["a", *norm], ["b"]),
        node("Conv", ["b", "w2"], ["y"]),
    ]
    halves = {name: values.astype(np.float16) for name, values in (kernels() | norm).items()}
    ends = {"inputs": [value("x", ["batch", 3, 12, 12], TensorProto.FLOAT16)]}
    given = model(nodes, halves, outputs=[value("y", None, TensorProto.FLOAT16)], **ends)
    onnx.save(given, tmp_path / "in.onnx")
    made = sslcli.export(tmp_path / "in.onnx", tmp_path / "out.onnx", options=ExportOptions(lower="dense"))
    assert 1e-5 < made.errors.max_rel < 5e-3


@pytest.mark.parametrize(
    "nodes",
    [
        [
            node("Range", ["from", "to", "by"], ["r"]),
            node("Mul", ["c", "r"], ["y"]),
        ],
        [node("EyeLike", ["square"], ["r"], dtype=TensorProto.FLOAT), node("MatMul", ["c", "r"], ["y"])],
        [
            node("QuantizeLinear", ["c", "by", "point"], ["q"]),
            node("DequantizeLinear", ["q", "by", "point"], ["y"]),
        ],
    ],
    ids=["range", "eye", "quantised"],
)
def test_operators_without_a_form_in_16_bits_stay_in_32(nodes: list[onnx.NodeProto]) -> None:
    constants = kernels() | {
        "from": np.float32(0),
        "to": np.float32(10),
        "by": np.float32(1),
        "square": np.zeros((10, 10), np.float32),
        "point": np.int8(0),
    }
    given = finish(model([*chain(), *nodes], constants))
    feeds = check.fresh_feeds(given, batch_size=2)
    narrow = convert(given, "fp16")
    assert check.worst_error(check.run(given, feeds), check.run(narrow, feeds)) < 2e-2


def test_an_input_that_is_an_output_too_stays_as_it_is_in_fp16() -> None:
    outputs = [value("c", None), value("x", ["batch", 3, 12, 12])]
    given = finish(model(chain(), kernels(), outputs=outputs))
    feeds = check.fresh_feeds(given, batch_size=2)
    assert np.array_equal(check.run(convert(given, "fp16"), feeds)[1], feeds["x"])


def test_branches_are_not_computed_in_fp16(tmp_path: Path) -> None:
    given = rarely([node("ReduceMean", ["a", "axes"], ["g"])], "g")
    onnx.save(given, tmp_path / "in.onnx")
    with pytest.raises(GraphError, match="If, Loop and Scan"):
        sslcli.export(tmp_path / "in.onnx", tmp_path / "out.onnx", options=ExportOptions(dtype="fp16"))
    assert not (tmp_path / "out.onnx").exists()


def test_a_file_keeps_its_operator_set_unless_another_is_asked_for(tmp_path: Path) -> None:
    onnx.save(model([*chain(), node("Gelu", ["c"], ["y"])], kernels(), opset=20), tmp_path / "in.onnx")
    sslcli.export(tmp_path / "in.onnx", tmp_path / "out.onnx", options=ExportOptions(lower="compact"))
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == 20


def with_data(path: Path, location: str) -> None:
    onnx.save(
        model([*chain(), node("Relu", ["c"], ["y"])], kernels()),
        path,
        save_as_external_data=True,
        location=location,
        size_threshold=0,
    )


def test_the_weights_of_the_source_are_not_overwritten(tmp_path: Path) -> None:
    with_data(tmp_path / "in.onnx", "out.onnx.data")
    before = (tmp_path / "out.onnx.data").read_bytes()
    with pytest.raises(OutputError, match=r"holds the weights of .*in\.onnx"):
        sslcli.export(tmp_path / "in.onnx", tmp_path / "out.onnx", options=ExportOptions(lower="dense"))
    assert (tmp_path / "out.onnx.data").read_bytes() == before


def test_the_weights_of_a_neighbour_are_not_overwritten(tmp_path: Path) -> None:
    with_data(tmp_path / "neighbour.onnx", "out.onnx.data")
    before = (tmp_path / "out.onnx.data").read_bytes()
    made = model([*chain(), node("Relu", ["c"], ["y"])], kernels())
    write_onnx(made, tmp_path / "out.onnx")  # needs no second file
    with pytest.raises(OutputError, match=r"holds the weights of .*neighbour\.onnx"):
        write_onnx(made, tmp_path / "out.onnx", limit_bytes=1)
    assert (tmp_path / "out.onnx.data").read_bytes() == before
    (tmp_path / "neighbour.onnx").unlink()
    write_onnx(made, tmp_path / "out.onnx", limit_bytes=1)
    assert len(read_onnx(tmp_path / "out.onnx").graph.initializer) == 2
    write_onnx(made, tmp_path / "out.onnx")  # its own data go when it no longer needs them
    assert not (tmp_path / "out.onnx.data").exists()


@pytest.mark.parametrize("batch", ["batch", 2])
def test_another_input_may_have_another_first_axis(batch: int | str) -> None:
    nodes = [
        *chain(),
        node("ReduceMean", ["anchors"], ["offset"], keepdims=0),
        node("Add", ["c", "offset"], ["y"]),
    ]
    inputs = [value("x", [batch, 3, 12, 12]), value("anchors", [100, 4])]
    given = model(nodes, kernels(), inputs=inputs)
    lowered = lower(finish(given), settings=QUICK)
    assert any(decision.timings for decision in lowered.decisions)


def test_open_sizes_are_counted_at_the_shape_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [*chain(), node("Relu", ["c"], ["y"])]
    onnx.save(model(nodes, kernels(), inputs=[value("x", ["batch", 3, "h", "w"])]), tmp_path / "in.onnx")
    command = ["export", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx")]
    written = tmp_path / "result.json"
    shape = ["--input-shape", "3,16,16", "--lower", "compact"]
    assert main([*command, *shape, "--json", str(written)]) == 0
    assert json.loads(written.read_text())["shape"]["macs"] > 0
    capsys.readouterr()
    assert main([*command, "--force"]) == 3
    assert "--input-shape" in capsys.readouterr().err


def test_a_sum_of_images_and_rows_is_not_one_of_channels() -> None:
    random = np.random.default_rng(0)
    weights = {
        "images": random.standard_normal((7, 3, 3, 3)).astype(np.float32),
        "rows": random.standard_normal((7, 3, 3)).astype(np.float32),
        "last": random.standard_normal((4, 7, 1, 1)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "images"], ["a"], name="images", pads=[1, 1, 1, 1]),
        node("Conv", ["z", "rows"], ["b"], name="rows", pads=[1, 1]),
        node("Add", ["a", "b"], ["c"]),
        node("Conv", ["c", "last"], ["y"], name="last"),
    ]
    given = finish(model(nodes, weights, inputs=[value("x", [1, 3, 7, 9]), value("z", [1, 3, 9])]))
    padded, added = pad_channels(given, block=4)
    assert added == {}
    feeds = check.fresh_feeds(given, batch_size=1)
    assert check.worst_error(check.run(given, feeds), check.run(padded, feeds)) < 1e-6


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_plain_model_is_written_in_16_bits(tmp_path: Path, dtype: str) -> None:
    onnx.save(model([*chain(), node("Relu", ["c"], ["y"])], kernels()), tmp_path / "in.onnx")
    sslcli.export(
        tmp_path / "in.onnx", tmp_path / "out.onnx", options=ExportOptions(dtype=dtype, lower="compact")
    )
    element = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[dtype]
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert element in kinds


@pytest.mark.parametrize("batch", ["batch", 1])
def test_a_layer_within_may_have_more_rows_than_the_batch(batch: int | str) -> None:
    nodes = [
        node("Reshape", ["x", "frames"], ["f"]),
        node("Conv", ["f", "w1"], ["a"], name="first"),
        node("Sigmoid", ["a"], ["b"]),
        node("Conv", ["b", "w2"], ["c"], name="second", pads=[1, 1, 1, 1]),
        node("ReduceMean", ["c", "axes"], ["m"], keepdims=0),
        node("Reshape", ["m", "clips"], ["y"]),
    ]
    constants = {
        **kernels(),
        "frames": np.array([-1, 3, 12, 12]),
        "axes": np.array([2, 3]),
        "clips": np.array([-1, 4, CHANNELS]),
    }
    given = model(nodes, constants, inputs=[value("x", [batch, 4, 3, 12, 12])])
    lowered = lower(finish(given), settings=QUICK)
    assert any(decision.timings for decision in lowered.decisions)
    feeds = check.fresh_feeds(given, batch_size=1)
    assert check.worst_error(check.run(given, feeds), check.run(lowered.model, feeds)) < 1e-5


def test_inputs_may_have_fixed_first_axes_of_their_own() -> None:
    nodes = [
        *chain(),
        node("ReduceMean", ["anchors"], ["offset"], keepdims=0),
        node("Add", ["c", "offset"], ["y"]),
    ]
    inputs = [value("x", [2, 3, 12, 12]), value("anchors", [5, 4])]
    lowered = lower(finish(model(nodes, kernels(), inputs=inputs)), settings=QUICK)
    assert any(decision.timings for decision in lowered.decisions)


@pytest.mark.parametrize("choice", ["auto", "compact"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_the_bounds_of_a_clip_may_be_vectors_of_one(choice: str, shape: tuple[int, ...]) -> None:
    nodes = [
        node("Conv", ["x", "w1"], ["a"], name="first"),
        node("Clip", ["a", "low", "high"], ["b"]),
        node("Conv", ["b", "w2"], ["y"], name="second"),
    ]
    bounds = {"low": np.zeros(shape, np.float32), "high": np.full(shape, 6, np.float32)}
    assert error_of(model(nodes, {**kernels(), **bounds}), choice) < 1e-5


def test_bounds_that_are_computed_after_a_layer_stay_before_the_clip() -> None:
    nodes = [
        node("Conv", ["x", "w1"], ["a"], name="first"),
        node("ReduceMax", ["x"], ["high"], keepdims=0),
        node("Clip", ["a", "", "high"], ["b"]),
        node("Sigmoid", ["b"], ["y"]),
    ]
    constants = kernels()
    del constants["w2"]
    given = model(nodes, constants)
    for choice in ("compact", "shift", "auto"):
        assert error_of(given, choice) < 1e-5


def test_shapes_that_are_no_longer_true_are_stated_anew() -> None:
    nodes = [*chain(), node("Relu", ["c"], ["y"])]
    given = model(
        nodes,
        kernels(),
        inputs=[value("x", [4, 3, 12, 12])],
        outputs=[value("y", [1, CHANNELS, 10, 10])],
    )
    given.graph.value_info.append(value("a", [1, CHANNELS, 11, 11]))
    made = finish(given)
    sizes = [dim.dim_value for dim in made.graph.output[0].type.tensor_type.shape.dim]
    assert sizes == [4, CHANNELS, 10, 10]
    onnx.checker.check_model(made, full_check=True)


def test_layers_may_have_the_names_that_a_lowering_would_give() -> None:
    nodes = [
        node("Conv", ["x", "w1"], ["a"], name="first"),
        node("Sigmoid", ["a"], ["b"]),
        node("Conv", ["b", "w2"], ["y"], name="first/Conv_0"),
    ]
    # a weight by another name than the layer's, so that the nodes keep theirs
    assert error_of(model(nodes, kernels()), "compact") < 1e-5


def test_sparse_initialisers_are_refused_by_name(tmp_path: Path) -> None:
    weights = kernels()
    first = weights.pop("w1")
    places = np.flatnonzero(first)
    values = helper.make_tensor("w1", TensorProto.FLOAT, [len(places)], first.ravel()[places])
    indices = helper.make_tensor("places", TensorProto.INT64, [len(places)], places)
    given = model([*chain(), node("Relu", ["c"], ["y"])], weights)
    given.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, first.shape))
    onnx.save(given, tmp_path / "in.onnx")
    with pytest.raises(ModelError, match="stores w1 as a sparse initialiser"):
        sslcli.export(tmp_path / "in.onnx", tmp_path / "out.onnx")


def test_text_and_half_bytes_stay_in_the_file_of_a_large_model(tmp_path: Path) -> None:
    nodes = [*chain(), node("Relu", ["c"], ["y"]), node("Gather", ["words", "index"], ["word"])]
    words = np.array([f"a word of some length {number}" for number in range(100)], object)
    constants = {**kernels(), "words": words, "index": np.array(7)}
    outputs = [value("y", None), value("word", [], TensorProto.STRING)]
    write_onnx(finish(model(nodes, constants, outputs=outputs)), tmp_path / "out.onnx", limit_bytes=1)
    assert (tmp_path / "out.onnx.data").is_file()
    made = read_onnx(tmp_path / "out.onnx")
    found = check.run(made, check.fresh_feeds(made, batch_size=1))
    assert str(found[1]) == words[7]
