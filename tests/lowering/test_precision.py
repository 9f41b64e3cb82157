from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from sslcli.lowering import check, export_onnx, from_torch
from sslcli.lowering.precision import convert


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.GroupNorm(2, 16)
        self.last = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        y = nn.functional.interpolate(y, scale_factor=2.0)
        return torch.softmax(self.last(y.mean((2, 3))), 1)


@pytest.fixture(scope="module")
def dense() -> onnx.ModelProto:
    torch.manual_seed(0)
    return export_onnx(Net(), (torch.zeros(2, 3, 8, 8),))


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_outputs_stay_close_and_ends_stay_float32(dense: onnx.ModelProto, dtype: str) -> None:
    narrow = convert(dense, dtype)
    onnx.checker.check_model(narrow, full_check=True)
    feeds = check.fresh_feeds(dense, batch_size=3)
    got = check.run(narrow, feeds)
    assert got[0].dtype == np.float32
    error = check.worst_error(check.run(dense, feeds), got)
    assert 0 < error < check.TOLERANCE[dtype]


@pytest.mark.parametrize(("dtype", "element"), [("fp16", "FLOAT16"), ("bf16", "BFLOAT16")])
def test_weights_take_half_the_bytes(dense: onnx.ModelProto, dtype: str, element: str) -> None:
    narrow = convert(dense, dtype)
    kinds = {len(t.dims): t.data_type for t in narrow.graph.initializer if len(t.dims) in (2, 4)}
    assert set(kinds.values()) == {onnx.TensorProto.DataType.Value(element)}


def test_float32_is_the_model_itself(dense: onnx.ModelProto) -> None:
    assert convert(dense, "fp32") is dense


def test_values_beyond_the_range_of_fp16_do_not_become_infinite() -> None:
    net = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        net.weight.fill_(1e6)
    narrow = convert(from_torch.translate(net, (torch.zeros(2, 2),), 18)[0], "fp16")
    weight = onnx.numpy_helper.to_array(narrow.graph.initializer[0])
    assert np.isfinite(weight).all()
