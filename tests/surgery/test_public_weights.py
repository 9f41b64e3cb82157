"""Zero patterns as SSL leaves them, on public ResNets: the pruned network gives the same logits."""

import random

import pytest
import torch
from torch import nn

import sslcli

pytestmark = pytest.mark.assets


@pytest.fixture
def resnet(assets):
    """``resnet(20)``: the public network in float64 and an example of its input."""
    folder = assets / "resnet_cifar10_akamaster"

    def load(depth):
        (path,) = folder.glob(f"resnet{depth}-*.th")
        model, _ = sslcli.load(path, arch=f"resnet{depth}", arch_args={"shortcut": "A"})
        return model.double().eval(), (torch.randn(2, 3, 32, 32, dtype=torch.float64),)

    return load


@torch.no_grad()
def leave_zeros(model, seed):
    """Rows, columns of the GEMM, 2D kernels and whole branches at random; shifts stay as they are."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def some(*shape):
        return torch.rand(shape, generator=generator) < 0.4

    convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    for name, layer in convs.items():
        if name == "conv1":
            continue
        weight = layer.weight
        way = rng.choice(["rows", "channels", "columns", "kernels", "whole", "none"])
        if way == "rows":
            weight[some(weight.shape[0])] = 0
        elif way == "channels":
            weight[:, some(weight.shape[1])] = 0
        elif way == "columns":
            weight[:, some(*weight.shape[1:])] = 0
        elif way == "kernels":
            weight[some(*weight.shape[:2])] = 0
        elif way == "whole":
            weight.zero_()


@pytest.mark.parametrize(("depth", "seed"), [(20, 0), (20, 1), (20, 2), (56, 3)])
def test_logits_are_the_same(resnet, prove, depth, seed):
    model, example = resnet(depth)
    leave_zeros(model, seed)
    result = prove(model, example, threshold=0.0)
    assert result.report.params_after < result.report.params_before
    assert result.report.macs_after < result.report.macs_before


def test_a_branch_of_zeros_is_gone_with_its_norms_shift(resnet, prove):
    model, example = resnet(20)
    with torch.no_grad():
        model.layer1[1].conv2.weight.zero_()
        model.layer3[2].conv2.weight.zero_()
        model.layer3[2].bn2.bias.zero_()
        model.layer3[2].bn2.running_mean.zero_()
    result = prove(model, example, threshold=0.0)
    kept = prove.kept(result)
    assert kept["layer1.1.conv1.weight"] is None
    assert kept["layer3.2.conv1.weight"] is None
    assert kept["layer3.2.bn2.weight"] is None
    before = count_convs(sslcli.prune(resnet(20)[0], example, threshold=0.0).model)
    assert count_convs(result.model) == before - 4


def count_convs(model):
    return sum(str(node.target) == "aten.conv2d.default" for node in model.program().graph.nodes)
