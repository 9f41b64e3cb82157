"""The networks are the paper's: shapes, MACs and parameter counts by hand."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sslcli import models
from sslcli.models.convnet import WithinChannelNorm


def macs(model, shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", [n for n in models.ARCHITECTURES if n != "caffenet"])
def test_outputs_one_logit_per_class(name):
    arch = models.ARCHITECTURES[name]
    model = models.create(name, {"classes": 7}).eval()
    assert model(torch.zeros(3, *arch.input_shape)).shape == (3, 7)


def test_lenet_macs():
    # conv1 20*25*24^2, conv2 50*500*8^2, fc1 800*500, fc2 500*10
    assert macs(models.create("lenet"), (1, 28, 28)) == 288_000 + 1_600_000 + 400_000 + 5_000


def test_mlp_parameters():
    count = sum(p.numel() for p in models.create("mlp").parameters())
    assert count == 785 * 500 + 501 * 300 + 301 * 10


def test_convnet_macs():
    expected = 32 * 75 * 32**2 + 32 * 800 * 16**2 + 64 * 800 * 8**2 + 1024 * 10
    assert macs(models.create("convnet"), (3, 32, 32)) == expected


def test_caffenet_convolutions_take_666m_macs():
    model = models.create("caffenet")
    linear = 9216 * 4096 + 4096 * 4096 + 4096 * 1000
    assert macs(model, (3, 227, 227)) - linear == 665_784_864


@pytest.mark.parametrize(
    ("name", "depth"), [("resnet20", 20), ("resnet32", 32), ("resnet44", 44), ("resnet56", 56)]
)
def test_resnet_depth(name, depth):
    model = models.create(name)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_resnet20_parameters_are_the_published_count():
    assert sum(p.numel() for p in models.create("resnet20").parameters()) == 269_722


def test_option_b_is_a_projection_without_norm():
    model = models.create("resnet20", {"shortcut": "B"})
    extra = set(model.state_dict()) - set(models.create("resnet20").state_dict())
    assert extra == {"layer2.0.shortcut.weight", "layer3.0.shortcut.weight"}
    assert model.layer2[0].shortcut.weight.shape == (32, 16, 1, 1)


def test_padded_shortcut_puts_the_input_in_the_middle():
    shortcut = models.create("resnet20").layer2[0].shortcut
    y = shortcut(torch.ones(1, 16, 4, 4))
    assert y.shape == (1, 32, 2, 2)
    assert y[0, :, 0, 0].tolist() == [0.0] * 8 + [1.0] * 16 + [0.0] * 8


def test_within_channel_norm_by_hand():
    x = torch.full((1, 2, 3, 3), 2.0)
    y = WithinChannelNorm(size=3, alpha=0.5, beta=0.75)(x)
    assert torch.allclose(y[0, 0, 1, 1], torch.tensor(2 * (1 + 0.5 * 4) ** -0.75))
    # in the corner 4 of the 9 places lie inside, the others count as zeros
    assert torch.allclose(y[0, 0, 0, 0], torch.tensor(2 * (1 + 0.5 * 16 / 9) ** -0.75))


def test_convnet_dropout_acts_in_training_only():
    model = models.create("convnet", {"dropout": 0.5})
    x = torch.ones(2, 3, 32, 32)
    assert torch.equal(model.eval()(x), model.eval()(x))
    assert not torch.equal(model.train()(x), model.train()(x))
