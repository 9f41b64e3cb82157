import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from sslcli.bench import RunSettings
from sslcli.bench.graphs import shaped_graph
from sslcli.bench.layers import match_layers
from sslcli.lowering import export_onnx
from sslcli.targeting.narrow import masked, narrowed


def piece_of(layer, shape):
    proto = export_onnx(layer.eval(), (torch.randn(2, *shape),))
    (pair,), _ = match_layers(shaped_graph(proto.SerializeToString(), RunSettings()), [])
    return onnx.ModelProto.FromString(pair.base.model)


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("bias", [True, False])
def test_a_narrow_convolution_is_that_of_the_first_filters_and_channels(bias):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 8, 3, padding=1, bias=bias)
    x = torch.randn(1, 4, 7, 7)
    expected = nn.functional.conv2d(x, layer.weight[:5, :4], layer.bias[:5] if bias else None, padding=1)
    found = run(narrowed(piece_of(layer, (6, 7, 7)), 5, 4), x.numpy())
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)


def test_a_narrow_linear_layer_is_that_of_the_first_rows_and_columns():
    torch.manual_seed(0)
    layer = nn.Linear(10, 6)
    x = torch.randn(1, 7)
    expected = nn.functional.linear(x, layer.weight[:2, :7], layer.bias[:2])
    found = run(narrowed(piece_of(layer, (10,)), 2, 7), x.numpy())
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "function"),
    [(nn.Conv2d, nn.functional.conv2d), (nn.ConvTranspose2d, nn.functional.conv_transpose2d)],
)
def test_a_depthwise_convolution_narrows_on_both_sides(kind, function):
    torch.manual_seed(0)
    layer = kind(6, 6, 3, groups=6)
    x = torch.randn(1, 2, 7, 7)
    expected = function(x, layer.weight[:2], layer.bias[:2], groups=2)
    found = run(narrowed(piece_of(layer, (6, 7, 7)), 2, 1, depthwise=True), x.numpy())
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)


def test_masked_leaves_the_share_of_columns():
    piece = piece_of(nn.Conv2d(4, 8, 5), (4, 9, 9))
    (weight,) = [t for t in masked(piece, 0.25).graph.initializer if len(t.dims) == 4]
    values = onnx.numpy_helper.to_array(weight).reshape(8, -1)
    assert int((values != 0).any(0).sum()) == 25
    assert bool((values != 0).any(1).all())
