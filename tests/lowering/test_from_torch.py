from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from sslcli.errors import GraphError, OutputError, VerificationError
from sslcli.lowering import check, export_onnx, from_torch
from sslcli.lowering.files import read_onnx, write_onnx


def small() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, stride=2, groups=2),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(6 * 9, 5),
    )
    for norm in (net[1], net[4]):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias)
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return net


EXAMPLE = (torch.zeros(1, 3, 8, 8),)


@pytest.fixture(scope="module")
def exported() -> onnx.ModelProto:
    return export_onnx(small(), EXAMPLE)


def test_ends_and_batch_axis_have_stable_names(exported: onnx.ModelProto) -> None:
    ends = [*exported.graph.input, *exported.graph.output]
    assert [value.name for value in ends] == ["input", "output"]
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in ends] == ["batch", "batch"]


def test_norms_are_folded_and_only_standard_operators_remain(exported: onnx.ModelProto) -> None:
    assert {node.op_type for node in exported.graph.node} == {"Conv", "Relu", "Reshape", "Gemm"}
    assert {entry.domain for entry in exported.opset_import} == {""}
    assert len(exported.functions) == 0


def test_layers_are_named_after_their_modules(exported: onnx.ModelProto) -> None:
    weighted = [node.name for node in exported.graph.node if node.op_type in ("Conv", "Gemm")]
    assert weighted == ["0", "3", "6"]


def test_no_path_of_the_exporting_machine_is_left(exported: onnx.ModelProto) -> None:
    assert str(Path(__file__).parent).encode() not in exported.SerializeToString()
    assert b"site-packages" not in exported.SerializeToString()


def test_any_batch_gives_the_outputs_of_torch(exported: onnx.ModelProto) -> None:
    net = small().eval()
    for batch_size in (1, 2, 5):
        x = torch.randn(batch_size, 3, 8, 8)
        with torch.no_grad():
            expected = net(x).numpy()
        assert check.relative_error(expected, check.run(exported, {"input": x.numpy()})[0]) < 1e-5


def test_the_module_is_left_as_it_was() -> None:
    net = small().train()
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    generator = torch.get_rng_state()
    export_onnx(net, EXAMPLE)
    assert [module.training for module in net[:3]] == [True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())


class TwoEnds(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return left + right, left - right


def test_several_inputs_keep_the_names_of_the_signature() -> None:
    model = export_onnx(TwoEnds(), (torch.zeros(2, 3), torch.zeros(2, 3)))
    assert [value.name for value in model.graph.input] == ["left", "right"]
    assert [value.name for value in model.graph.output] == ["output_0", "output_1"]


@dataclass(frozen=True)
class Note:
    text: str

    def to_json(self) -> str:
        return json.dumps({"text": self.text})


def test_the_record_travels_in_the_file(tmp_path: Path) -> None:
    path = export_onnx(nn.Flatten(), EXAMPLE, tmp_path / "model.onnx", record=Note("hello"))
    stored = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(stored["sslcli"]) == {"text": "hello"}


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
def test_the_operator_set_is_the_one_asked_for(opset: int) -> None:
    model = export_onnx(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), EXAMPLE, opset=opset)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]


def test_other_outputs_than_torch_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: onnx.ModelProto, opset: int | None = None) -> onnx.ModelProto:
        weight = model.graph.initializer[0]
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.001, weight.name))
        return model

    monkeypatch.setattr(from_torch, "finish", broken)
    with pytest.raises(VerificationError):
        export_onnx(nn.Conv2d(3, 4, 3), EXAMPLE, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


def test_a_graph_that_depends_on_data_is_a_graph_error() -> None:
    with pytest.raises(GraphError):
        export_onnx(Branches(), EXAMPLE)


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        export_onnx(small(), EXAMPLE, tmp_path / "missing" / "model.onnx")


def test_beyond_the_limit_weights_go_to_a_second_file(exported: onnx.ModelProto, tmp_path: Path) -> None:
    path = write_onnx(exported, tmp_path / "model.onnx", limit_bytes=100)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx.data").stat().st_size >= 5 * 54 * 4
    feeds = {"input": np.ones((2, 3, 8, 8), np.float32)}
    expected = check.run(exported, feeds)
    assert np.array_equal(check.run(path, feeds)[0], expected[0])
    assert np.array_equal(check.run(read_onnx(path), feeds)[0], expected[0])
    write_onnx(exported, path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
