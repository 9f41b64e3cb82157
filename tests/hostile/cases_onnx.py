"""ONNX files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from case import Case, Place, sparse
from onnx import TensorProto, helper, numpy_helper

Model = onnx.ModelProto


def _sound() -> Model:
    weight = np.random.default_rng(0).standard_normal((4, 1, 5, 5), np.float32)
    last = np.random.default_rng(1).standard_normal((4 * 24 * 24, 10), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
            helper.make_node("Flatten", ["c"], ["f"], "flat"),
            helper.make_node("Gemm", ["f", "v"], ["y"], "fc"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 28, 28])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(last, "v")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _changed(change: Callable[[Model], object]) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        model = _sound()
        change(model)
        place.path("m.onnx").write_bytes(model.SerializeToString())

    return make


def _external(location: str, **fields: str) -> Callable[[Model], object]:
    def change(model: Model) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **fields}.items():
            tensor.external_data.add(key=key, value=value)

    return change


def _secret(place: Place) -> None:
    """The data lie outside the model's folder, and are there."""
    (place.work.parent / "secret.bin").write_bytes(b"\0" * 400)
    _changed(_external("../secret.bin"))(place)


def _link(place: Place) -> None:
    (place.work.parent / "secret.bin").write_bytes(b"\0" * 400)
    place.path("data.bin").symlink_to("../secret.bin")
    _changed(_external("data.bin"))(place)


def _short(place: Place) -> None:
    place.path("data.bin").write_bytes(b"\0" * 400)
    _changed(_external("data.bin", offset="0", length=str(1 << 50)))(place)


def _negative(place: Place) -> None:
    place.path("data.bin").write_bytes(b"\0" * 400)
    _changed(_external("data.bin", offset="-4096", length="400"))(place)


def _sparse_data(place: Place) -> None:
    sparse(place.path("data.bin"))
    _changed(_external("data.bin"))(place)


def _integers(model: Model) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 1, 5, 5), np.int64), "w"))


def _words(model: Model) -> None:
    words = helper.make_tensor("w", TensorProto.STRING, [4, 1, 5, 5], [b"a"] * 100)
    model.graph.initializer[0].CopyFrom(words)


def _other_rank(model: Model) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 5), np.float32), "w"))


def _unknown_type(model: Model) -> None:
    model.graph.initializer[0].data_type = 99


def _too_few(model: Model) -> None:
    model.graph.initializer[0].raw_data = b"\0" * 8


def _cycle(model: Model) -> None:
    model.graph.node[0].input[0] = "f"


def _nobody(model: Model) -> None:
    model.graph.node[0].input[0] = "nobody"


def _twice(model: Model) -> None:
    model.graph.node[1].output[0] = "c"


def _dims(model: Model) -> None:
    tensor = model.graph.initializer[0]
    del tensor.dims[:]
    tensor.dims.extend([1 << 20, 1 << 20, 5, 5])
    tensor.ClearField("raw_data")


def _negative_dims(model: Model) -> None:
    tensor = model.graph.initializer[0]
    del tensor.dims[:]
    tensor.dims.extend([-4, 1, -5, 5])


def _huge_input(model: Model) -> None:
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 1 << 20


def _constant_of_shape(model: Model) -> None:
    shape = numpy_helper.from_array(np.array([1 << 20, 1 << 20], np.int64), "s")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["s"], ["big"]))
    model.graph.node.append(helper.make_node("ReduceSum", ["big"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))


def _expands(model: Model) -> None:
    """Sizes come out of a computation, so that no shape inference sees them."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 16], np.int64), "s"))
    model.graph.node.append(helper.make_node("Mul", ["s", "s"], ["ss"]))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["ss"], ["a"]))
    model.graph.node.append(helper.make_node("Concat", ["ss", "ss"], ["sss"], axis=0))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["sss"], ["b"]))
    model.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, None))


def _endless(model: Model) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["v_in"], ["v_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_in", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, None),
        ],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(1 << 62, np.int64), "often"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("Loop", ["often", "yes", "y"], ["z"], body=body))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))


def _unknown_op(model: Model) -> None:
    model.graph.node[1].op_type = "EvilFlatten"


def _domain(model: Model) -> None:
    model.graph.node[1].domain = "com.evil"
    model.opset_import.append(helper.make_opsetid("com.evil", 1))


def _python_op(model: Model) -> None:
    model.graph.node[1].CopyFrom(helper.make_node("PythonOp", ["c"], ["f"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _opset(model: Model) -> None:
    model.opset_import[0].version = 1 << 40


def _recursive_function(model: Model) -> None:
    call = helper.make_node("F", ["a"], ["b"], domain="here")
    model.opset_import.append(helper.make_opsetid("here", 1))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("here", 1)]
    model.functions.append(helper.make_function("here", "F", ["a"], ["b"], [call], imports))
    model.graph.node[1].CopyFrom(helper.make_node("F", ["c"], ["f"], domain="here"))


def _deep(model: Model) -> None:
    inner: Any = helper.make_graph([], "leaf", [], [])
    for _ in range(25):
        node = helper.make_node(
            "If", ["c"], ["f"], then_branch=inner, else_branch=helper.make_graph([], "e", [], [])
        )
        inner = helper.make_graph([node], "g", [], [])
    model.graph.node.append(inner.node[0])


def _record(model: Model) -> None:
    model.metadata_props.add(key="sslcli", value="[" * 100_000)


def _nan(model: Model) -> None:
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0, 0, 0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))


def _cut(place: Place) -> None:
    place.path("m.onnx").write_bytes(_sound().SerializeToString()[:-50])


def _no_inputs(model: Model) -> None:
    del model.graph.input[:]


_INSPECT, _EXPORT = "inspect m.onnx", "export m.onnx -o out.onnx --lower dense"
_EVALUATE = "evaluate m.onnx --data mnist-5k"
_BENCH = "bench m.onnx --budget 0.1 --layers none -q"

ONNX = [
    Case("external data outside the model's folder (`../`)", _secret, _EXPORT, "m.onnx"),
    Case("external data by an absolute path", _changed(_external("/etc/passwd")), _INSPECT, "m.onnx"),
    Case("external data through a symbolic link", _link, _EXPORT, "m.onnx"),
    Case("external data that are not there", _changed(_external("none.bin")), _INSPECT, "m.onnx"),
    Case("external data shorter than they are said to be", _short, _EXPORT, "m.onnx"),
    Case("external data at a negative offset", _negative, _INSPECT, "m.onnx"),
    Case("a terabyte of external data", _sparse_data, _INSPECT, "m.onnx"),
    Case("external data outside, run by ONNX Runtime", _secret, _EVALUATE, "m.onnx"),
    Case("a convolution with integer weights", _changed(_integers), _EXPORT, "m.onnx"),
    Case("a convolution with words for weights", _changed(_words), _INSPECT, "m.onnx"),
    Case("a convolution with a weight of two axes", _changed(_other_rank), _INSPECT, "m.onnx"),
    Case("a weight of an unknown type", _changed(_unknown_type), _INSPECT, "m.onnx"),
    Case("a weight with fewer bytes than its shape", _changed(_too_few), _INSPECT, "m.onnx"),
    Case("a weight of terabytes without bytes", _changed(_dims), _INSPECT, "m.onnx"),
    Case("a weight of negative sizes", _changed(_negative_dims), _EXPORT, "m.onnx"),
    Case("a cycle", _changed(_cycle), _EXPORT, "m.onnx"),
    Case("a cycle, looked at", _changed(_cycle), _INSPECT, "m.onnx"),
    Case("a node that reads what nobody writes", _changed(_nobody), _BENCH, "m.onnx"),
    Case("a tensor that two nodes write", _changed(_twice), _INSPECT, "m.onnx"),
    Case("an input of terabytes", _changed(_huge_input), _BENCH, "m.onnx"),
    Case("an input of terabytes, exported", _changed(_huge_input), _EXPORT, "m.onnx"),
    Case("a node that makes a tensor of terabytes", _changed(_constant_of_shape), _BENCH, "m.onnx"),
    Case("a node that makes a tensor of a computed size", _changed(_expands), _EVALUATE, "m.onnx"),
    Case("a loop of 2^62 turns", _changed(_endless), _BENCH, "m.onnx"),
    Case("an operator that does not exist", _changed(_unknown_op), _EXPORT, "EvilFlatten"),
    Case("an operator of an unknown domain", _changed(_domain), _EVALUATE, "m.onnx"),
    Case("an operator that would call Python", _changed(_python_op), _EXPORT, "m.onnx"),
    Case("an operator set of version 2^40", _changed(_opset), _EXPORT, "m.onnx"),
    Case("a function that calls itself", _changed(_recursive_function), _EXPORT, "m.onnx"),
    Case("25 nested sub-graphs", _changed(_deep), _INSPECT, "m.onnx"),
    Case("a record of 100,000 open brackets in ONNX", _changed(_record), _INSPECT, "record"),
    Case("NaN in an ONNX weight", _changed(_nan), _EXPORT, "m.onnx"),
    Case("an ONNX file cut short", _cut, _INSPECT, "m.onnx"),
    Case("a graph without inputs", _changed(_no_inputs), _EVALUATE, "m.onnx"),
    Case("text as `.onnx`", lambda p: p.path("m.onnx").write_text("not ONNX\n"), _BENCH, "m.onnx"),
    Case("a terabyte of zeros as `.onnx`", lambda p: sparse(p.path("m.onnx")), _INSPECT, "m.onnx"),
    Case(
        "ONNX where a model to train is wanted",
        _changed(lambda model: None),
        "prune m.onnx -o s.pt2",
        "cannot be trained or pruned",
    ),
]
