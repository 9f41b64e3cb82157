from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import sslcli
from sslcli.errors import ModelError, OutputError, UsageError
from sslcli.lowering import check
from sslcli.options.export import ExportOptions

EXAMPLE = (torch.zeros(2, 16, 8, 8),)


def options(**values: object) -> ExportOptions:
    return ExportOptions.model_validate(values)


def sparse() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 5))
    with torch.no_grad():
        net[0].weight[::2] = 0
        net[0].weight[:, :, 0, 0] = 0
        net[0].weight[:, 3] = 0
    return net


def test_a_module_is_written_lowered_and_equal(tmp_path: Path) -> None:
    net = sparse()
    written = sslcli.export(net, tmp_path / "model.onnx", example=EXAMPLE, options=options(lower="shift"))
    assert written.path.stat().st_size == written.size_bytes
    assert [(decision.layer, decision.chosen) for decision in written.decisions] == [("0", "shift")]
    x = torch.randn(3, 16, 8, 8)
    with torch.no_grad():
        expected = net.eval()(x).numpy()
    assert check.relative_error(expected, check.run(written.path, {"input": x.numpy()})[0]) < 1e-5


def test_any_onnx_file_is_lowered_and_keeps_its_names(tmp_path: Path) -> None:
    """Constant nodes, opset 13, a fixed batch and no value infos, as other exporters write."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((16, 8, 3, 3)).astype(np.float32)
    weight[:, random.random((8, 3, 3)) < 0.7] = 0
    nodes = [
        onnx.helper.make_node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(weight)),
        onnx.helper.make_node("Conv", ["data", "w"], ["mid"], auto_pad="SAME_UPPER", strides=[2, 2]),
        onnx.helper.make_node("Relu", ["mid"], ["result"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "other",
        [value("data", onnx.TensorProto.FLOAT, [2, 8, 9, 9])],
        [value("result", onnx.TensorProto.FLOAT, [2, 16, 5, 5])],
    )
    given = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7)
    source = tmp_path / "given.onnx"
    onnx.save(given, source)
    written = sslcli.export(source, tmp_path / "out.onnx", options=options(lower="row-shift", opset=13))
    lowered = onnx.load(written.path)
    assert {node.op_type for node in lowered.graph.node} >= {"Gather", "Conv", "Pad"}
    feeds = {"data": random.standard_normal((2, 8, 9, 9)).astype(np.float32)}
    assert check.worst_error(check.run(source, feeds), check.run(written.path, feeds)) < 1e-5
    assert [output.name for output in lowered.graph.output] == ["result"]


def test_the_suffix_chooses_the_format(tmp_path: Path) -> None:
    written = sslcli.export(sparse(), tmp_path / "model.safetensors", example=EXAMPLE)
    assert written.choice == "none"
    assert written.path.is_file()


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        ("module", "model.tflite", UsageError),
        ("module without example", "model.onnx", UsageError),
        ("module", "missing/model.onnx", OutputError),
        ("missing.onnx", "model.onnx", ModelError),
        ("text.onnx", "model.onnx", ModelError),
        ("text.onnx", "model.pt2", UsageError),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(
    tmp_path: Path, source: str, target: str, error: type[Exception]
) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    what = sparse() if source.startswith("module") else tmp_path / source
    with pytest.raises(error):
        sslcli.export(what, tmp_path / target, example=EXAMPLE if source == "module" else None)
    assert [file.name for file in tmp_path.iterdir()] == ["text.onnx"]


def test_the_record_of_an_onnx_file_stays(tmp_path: Path) -> None:
    record = sslcli.load("arch:lenet").record
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    dense = options(lower="dense")
    sslcli.export(sparse(), first, example=EXAMPLE, record=record, options=dense)
    sslcli.export(first, second, options=dense)
    stored = {entry.key: entry.value for entry in onnx.load(second).metadata_props}
    assert stored["sslcli"] == record.to_json()
