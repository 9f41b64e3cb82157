"""ONNX as other exporters write it: each convention lowers where whole groups are zero, and stays equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sslcli
from sslcli.lowering import check, lower
from sslcli.lowering.files import read_onnx
from sslcli.lowering.from_torch import finish
from sslcli.options.export import ExportOptions


@dataclass
class Draft:
    """A graph in the making; ``x`` is (batch, 4, 8, 8) unless an input says otherwise."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    shape: tuple[int | str, ...] = ("batch", 4, 8, 8)

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(self, name: str, values: np.ndarray) -> str:
        self.constants[name] = np.ascontiguousarray(values)
        return name

    def model(self, opset: int = 13) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "other",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(values, name) for name, values in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


FILTERS = 24


def kernel() -> np.ndarray:
    """(24, 4, 3, 3) with every other filter and half of the columns dead."""
    weight = floats(FILTERS, 4, 3, 3) * (np.random.default_rng(1).random((4, 3, 3)) < 0.5)
    weight[::2] = 0
    return weight.astype(np.float32)


def features(rows: int = 6, columns: int = FILTERS * 6 * 6) -> np.ndarray:
    """(rows, columns) with a third of the columns dead."""
    weight = floats(rows, columns, seed=2)
    weight[:, ::3] = 0
    return weight


def ended(draft: Draft, last: str) -> Draft:
    """Flatten and a product, as torch writes them."""
    draft.node("Flatten", [last], "flat")
    draft.node("Gemm", ["flat", draft.constant("fc.weight", features())], "y", transB=1)
    return draft


def plain() -> Draft:
    draft = Draft()
    weight, bias = draft.constant("w", kernel()), draft.constant("b", floats(FILTERS))
    draft.node("Conv", ["x", weight, bias], "c")
    return ended(draft, draft.node("Relu", ["c"], "r"))


def constant_nodes() -> onnx.ModelProto:
    """Weights are the outputs of Constant nodes (torch's old exporter, CNTK)."""
    model = plain().model()
    tensors = list(model.graph.initializer)
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
    del model.graph.initializer[:]
    model.graph.node.extend([model.graph.node.pop(0) for _ in range(len(model.graph.node))])
    ordered = [*nodes, *model.graph.node]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def weight_through(make: Callable[[Draft], str]) -> Callable[[], onnx.ModelProto]:
    """A convolution whose weight ``make`` writes, then the rest."""

    def build() -> onnx.ModelProto:
        draft = Draft()
        draft.node("Conv", ["x", make(draft)], "c")
        return ended(draft, "c").model()

    return build


def identity(draft: Draft) -> str:
    """A weight that two layers share in torch's exporter."""
    return draft.node("Identity", [draft.constant("w", kernel())], "w2")


def transposed(draft: Draft) -> str:
    """A weight stored height, width, in, out (TensorFlow, Keras)."""
    return draft.node(
        "Transpose", [draft.constant("w", kernel().transpose(2, 3, 1, 0))], "w2", perm=[3, 2, 0, 1]
    )


def reshaped(draft: Draft) -> str:
    """A flat weight with its shape beside it (PaddlePaddle, Caffe2)."""
    shape = draft.constant("shape", np.array([FILTERS, 4, 3, 3], np.int64))
    return draft.node("Reshape", [draft.constant("w", kernel().reshape(FILTERS, -1)), shape], "w2")


def weight_norm(draft: Draft) -> str:
    """g * v / ||v||, written out; the zeros are in g and v."""
    v = kernel()
    v[v.reshape(FILTERS, -1).any(1) == 0, 0, 0, 0] = 1.0
    g = (kernel().reshape(FILTERS, -1).any(1) * 2.0).astype(np.float32).reshape(FILTERS, 1, 1, 1)
    norm = draft.node("ReduceL2", [draft.constant("v", v)], "norm", axes=[1, 2, 3], keepdims=1)
    unit = draft.node("Div", ["v", norm], "unit")
    return draft.node("Mul", [unit, draft.constant("g", g)], "w2")


def dequantised(draft: Draft) -> str:
    """A weight in 8 bits, each filter with a scale of its own; zeros are exact there."""
    weight = kernel()
    scale = np.maximum(np.abs(weight).max((1, 2, 3)), 1e-3) / 127
    stored = np.round(weight / scale[:, None, None, None]).astype(np.int8)
    inputs = [draft.constant("q", stored), draft.constant("s", scale.astype(np.float32))]
    return draft.node(
        "DequantizeLinear", [*inputs, draft.constant("z", np.zeros(FILTERS, np.int8))], "w2", axis=0
    )


def bf16(draft: Draft) -> str:
    """A weight in bfloat16, cast where it is read."""
    draft.constants["w"] = kernel().astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    return draft.node("Cast", ["w"], "w2", to=TensorProto.FLOAT)


def norm_after() -> onnx.ModelProto:
    """BatchNormalization left as it is (training exports, Caffe2)."""
    draft = Draft()
    draft.node("Conv", ["x", draft.constant("w", kernel())], "c")
    for index, name in enumerate(("scale", "shift", "mean", "var")):
        draft.constant(name, np.abs(floats(FILTERS, seed=index)) + 0.5)
    return ended(draft, draft.node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], "n")).model()


def caffe() -> onnx.ModelProto:
    """Convolution, norm without scale, Scale as Mul and Add, then LRN and a grouped convolution."""
    draft = Draft()
    draft.node(
        "Conv", ["x", draft.constant("w", kernel()), draft.constant("b", floats(FILTERS))], "c", pads=[1] * 4
    )
    draft.node("Mul", ["c", draft.constant("scale", floats(1, FILTERS, 1, 1))], "m")
    draft.node("Add", ["m", draft.constant("shift", floats(FILTERS, 1, 1, seed=1))], "a")
    draft.node("LRN", ["a"], "l", size=5, alpha=1e-4, beta=0.75)
    weight = floats(FILTERS, FILTERS // 2, 3, 3, seed=3)
    weight[:, :, 0] = 0
    weight[::2] = 0
    draft.node("Conv", ["l", draft.constant("w2", weight)], "g", group=2)
    return ended(draft, draft.node("Relu", ["g"], "r")).model()


def tensorflow() -> onnx.ModelProto:
    """NHWC ends with Transposes between, SAME padding, the bias added, MatMul and Add (tf2onnx)."""
    draft = Draft(shape=("batch", 8, 8, 4))
    draft.node("Transpose", ["x"], "nchw", perm=[0, 3, 1, 2])
    draft.node("Conv", ["nchw", draft.constant("w", kernel())], "c", auto_pad="SAME_UPPER", strides=[2, 2])
    draft.node("Add", ["c", draft.constant("b", floats(1, FILTERS, 1, 1))], "a")
    draft.node("Relu", ["a"], "r")
    draft.node("Transpose", ["r"], "nhwc", perm=[0, 2, 3, 1])
    draft.node("Reshape", ["nhwc", draft.constant("shape", np.array([-1, FILTERS * 16], np.int64))], "flat")
    draft.node("MatMul", ["flat", draft.constant("fc", features(6, FILTERS * 16).T)], "p")
    draft.node("Add", ["p", draft.constant("fc.bias", floats(6))], "y")
    return draft.model()


def gemm_in_out() -> onnx.ModelProto:
    """Gemm with a weight (in, out), as scikit-learn's and Keras' converters write it."""
    draft = Draft(shape=("batch", FILTERS * 36))
    inputs = ["x", draft.constant("w", features().T), draft.constant("b", floats(1, 6))]
    draft.node("Gemm", inputs, "h")
    draft.node("Gemm", [draft.node("Relu", ["h"], "r"), draft.constant("v", features(6, 6))], "y")
    return draft.model()


def fixed_batch() -> onnx.ModelProto:
    """A batch size that the file fixes."""
    draft = plain()
    draft.shape = (2, 4, 8, 8)
    return draft.model()


def listed_inputs() -> onnx.ModelProto:
    """Initialisers that are listed as inputs (torch before 1.2, Caffe2, MXNet)."""
    model = plain().model()
    model.ir_version = 3
    for name, values in plain().constants.items():
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape))
    return model


def functions() -> onnx.ModelProto:
    """The convolution inside a function of the model's own (torch modules as functions)."""
    model = plain().model()
    body = [helper.make_node("Conv", ["i", "w", "b"], ["o"])]
    model.functions.append(
        helper.make_function("own", "Layer", ["i", "w", "b"], ["o"], body, [helper.make_opsetid("", 13)])
    )
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[0].op_type, model.graph.node[0].domain = "Layer", "own"
    return model


CONVENTIONS: dict[str, tuple[Callable[[], onnx.ModelProto], int]] = {
    "constant nodes": (constant_nodes, 2),
    "identity": (weight_through(identity), 2),
    "transposed": (weight_through(transposed), 2),
    "reshaped": (weight_through(reshaped), 2),
    "weight norm": (weight_through(weight_norm), 2),
    "dequantised": (weight_through(dequantised), 2),
    "bf16": (weight_through(bf16), 2),
    "norm after": (norm_after, 2),
    "caffe": (caffe, 3),
    "tensorflow": (tensorflow, 2),
    "gemm in x out": (gemm_in_out, 2),
    "fixed batch": (fixed_batch, 2),
    "listed inputs": (listed_inputs, 2),
    "functions": (functions, 2),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_convention_lowers_and_stays_equal(name: str) -> None:
    make, sites = CONVENTIONS[name]
    given = make()
    references = check.references_of(given)
    lowered = lower(finish(make(), 13), choice="compact")
    assert [d.chosen for d in lowered.decisions].count("compact") == sites
    assert check.require_references(lowered.model, references, 1e-5).max_rel <= 1e-5
    onnx.checker.check_model(lowered.model, full_check=True)


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_a_file_of_any_operator_set_is_lowered_in_its_own(tmp_path: Path, opset: int) -> None:
    model = plain().model(opset)
    onnx.save(model, tmp_path / "given.onnx")
    options = ExportOptions(lower="shift", opset=opset)
    made = sslcli.export(tmp_path / "given.onnx", tmp_path / "out.onnx", options=options)
    written = onnx.load(tmp_path / "out.onnx")
    assert written.opset_import[0].version == opset
    assert [d.chosen for d in made.decisions] == ["shift", "dense"]
    feeds = check.fresh_feeds(model, batch_size=3)
    assert check.worst_error(check.run(model, feeds), check.run(written, feeds)) < 1e-5


def test_weights_in_a_second_file_are_read(tmp_path: Path) -> None:
    model = plain().model()
    expected = check.run(model, check.fresh_feeds(model, batch_size=3))
    onnx.save(
        model, tmp_path / "given.onnx", save_as_external_data=True, location="weights", size_threshold=0
    )
    options = ExportOptions(lower="compact")
    sslcli.export(tmp_path / "given.onnx", tmp_path / "out.onnx", options=options)
    (tmp_path / "weights").unlink()
    got = check.run(read_onnx(tmp_path / "out.onnx"), check.fresh_feeds(model, batch_size=3))
    assert check.worst_error(expected, got) < 1e-5


def test_a_layer_in_integers_stays_in_integers() -> None:
    draft = Draft()
    one, zero = draft.constant("one", np.float32(0.1)), draft.constant("zero", np.int8(0))
    draft.node("QuantizeLinear", ["x", one, zero], "xq")
    draft.node("DequantizeLinear", ["xq", one, zero], "xd")
    draft.node("Conv", ["xd", dequantised(draft)], "c")
    draft.node("QuantizeLinear", ["c", one, zero], "cq")
    draft.node("DequantizeLinear", ["cq", one, zero], "y")
    model = draft.model()
    lowered = lower(finish(draft.model(), 13), choice="compact")
    assert lowered.decisions == ()
    feeds = check.fresh_feeds(model, batch_size=2)
    assert check.worst_error(check.run(model, feeds), check.run(lowered.model, feeds)) == 0
    assert {t.data_type for t in lowered.model.graph.initializer if len(t.dims) == 4} == {TensorProto.INT8}


def test_narrow_weights_without_zero_groups_stay_narrow() -> None:
    draft = Draft()
    stored = np.ones((FILTERS, 4, 3, 3), np.int8)
    inputs = [draft.constant("q", stored), draft.constant("s", np.float32(0.1))]
    draft.node("DequantizeLinear", inputs, "w")
    draft.node("Conv", ["x", "w"], "y")
    tidy = finish(draft.model(), 13)
    assert [node.op_type for node in tidy.graph.node] == ["DequantizeLinear", "Conv"]


def test_a_constant_that_would_grow_stays_a_computation() -> None:
    draft = Draft()
    shape = draft.constant("shape", np.array([64, 1024], np.int64))
    big = draft.node("Expand", [draft.constant("one", np.ones(1, np.float32)), shape], "big")
    draft.node("Reshape", ["x", draft.constant("flat", np.array([-1, 64], np.int64))], "f")
    draft.node("MatMul", ["f", big], "y")
    draft.shape = ("batch", 4, 4, 4)
    assert "Expand" in {node.op_type for node in finish(draft.model(), 13).graph.node}
