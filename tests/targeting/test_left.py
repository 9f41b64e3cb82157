import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from sslcli.graph.normalise import normalise
from sslcli.graph.slots import analyse
from sslcli.graph.trace import trace
from sslcli.surgery import prune
from sslcli.targeting.left import watcher


def watched(net, example):
    watch = watcher(analyse(normalise(trace(net, example))))
    return watch(dict(net.named_parameters()))


def test_nothing_is_gone_of_a_dense_network(net, example):
    assert watched(net, example) == {"macs": 1.0, "macs_packed": 1.0, "params": 1.0}


def test_dead_columns_leave_macs_and_take_packed_ones(net, example):
    with torch.no_grad():
        net.conv2.weight.view(12, -1)[:, :54] = 0  # half of its columns: the first six channels
        net.branch.weight[:, :, 0, 0] = 0  # one of nine places of the kernel
    left = watched(net, example)
    conv1, conv2, branch, fc = 12 * 9 * 36, 12 * 108 * 16, 12 * 108 * 16, 3 * 192
    whole = conv1 + conv2 + branch + fc
    # channels that nobody reads go with the filters that write them
    assert left["macs"] == (conv1 // 2 + conv2 // 2 + branch + fc) / whole
    assert left["macs_packed"] == (conv1 // 2 + conv2 // 2 + branch * 8 // 9 + fc) / whole


def test_fractions_are_those_of_pruning(net, example):
    with torch.no_grad():
        net.conv1.weight[:5] = 0
        net.conv1.bias[:5] = 0
    left, report = watched(net, example), prune(net, example, threshold=0.0).report
    assert left["macs"] == report.macs_after / report.macs_before
    assert left["macs_packed"] == report.macs_packed / report.macs_before
    assert left["params"] == report.params_after / report.params_before


def test_a_grouped_convolution_is_packed_group_by_group():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 9, 2)).eval()
    with torch.no_grad():
        net[0].weight[:4, 0, 0, 0] = 0  # one of 18 columns of the first group
    left = watched(net, (torch.randn(2, 4, 5, 5),))
    conv, fc = 8 * 18 * 9, 2 * 72
    assert left["macs_packed"] == (conv - 4 * 9 + fc) / (conv + fc)


def between(layer):
    """A layer of 12 channels between others that may lose filters."""
    return nn.Sequential(
        nn.Conv2d(2, 12, 3), nn.ReLU(), layer, nn.ReLU(), nn.Conv2d(12, 4, 3), nn.Flatten(), nn.LazyLinear(2)
    )


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(12, 12, 3, groups=3),
        nn.Conv2d(12, 12, 3, groups=12),
        nn.Conv2d(12, 12, 1, groups=6),
        nn.ConvTranspose2d(12, 12, 3, groups=3),
    ],
    ids=["groups", "depthwise", "pairs", "transposed"],
)
@pytest.mark.parametrize("gone", [(0, 4, 8), (0, 1, 4, 5, 8, 9), (0, 1, 2, 3), (5,)])
def test_fractions_of_grouped_convolutions_are_those_of_pruning(layer, gone):
    """What reads removed filters is not counted, though it is not zero; nor are zeros among the others."""
    torch.manual_seed(0)
    net, example = between(copy.deepcopy(layer)).eval(), (torch.randn(2, 2, 9, 9),)
    net(*example)
    with torch.no_grad():
        net[0].weight[list(gone)] = 0
        net[0].bias[list(gone)] = 0
        net[2].weight[6, :, 0, 0] = 0
        net[4].weight[:, 3, 1, 1] = 0
    left, report = watched(net, example), prune(net, example, threshold=0.0).report
    assert left["macs"] == report.macs_after / report.macs_before
    assert left["macs_packed"] == report.macs_packed / report.macs_before
    assert left["params"] == report.params_after / report.params_before


class Reused(nn.Module):
    """A grouped convolution that is used twice: both uses read the same channels of every group."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.last = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 1, groups=2), nn.Linear(8, 2)

    def forward(self, x):
        x = self.first(x).relu()
        return self.last(self.twice(self.twice(x).relu()).relu().mean((2, 3)))


def plain(*layers):
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), *layers, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))


@pytest.mark.parametrize(
    ("net", "constant"),
    [
        (plain(weight_norm(nn.Conv2d(8, 8, 3))), 0.0),
        (plain(weight_norm(nn.ConvTranspose2d(8, 8, 2, groups=2))), 0.0),
        (plain(nn.Conv2d(8, 8, 3, bias=False)), 0.3),
        (plain(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)), 0.3),
    ],
    ids=["weight norm", "weight norm transposed", "no bias", "no bias but a norm"],
)
def test_parameters_are_those_of_pruning(net, constant):
    """Weights behind a weight norm count, and so do biases that must be made for a removed constant."""
    torch.manual_seed(0)
    net, example = copy.deepcopy(net).eval(), (torch.randn(2, 1, 8, 8),)
    net(*example)
    assert watched(net, example)["params"] == 1.0
    with torch.no_grad():
        net[0].weight[[0, 4]] = 0
        net[0].bias[[0, 4]] = constant
    left, report = watched(net, example), prune(net, example, threshold=0.0).report
    assert left["params"] == report.params_after / report.params_before < 1.0
    assert left["macs"] == report.macs_after / report.macs_before < 1.0


def test_a_grouped_convolution_that_is_used_twice_is_pruned_as_it_is_counted():
    torch.manual_seed(0)
    net, example = Reused().eval(), (torch.randn(2, 1, 8, 8),)
    with torch.no_grad():  # what both uses read and write: units 0 and 4 of every place
        for layer in (net.first, net.twice):
            layer.weight[[0, 4]] = 0
            layer.bias[[0, 4]] = 0
    left, report = watched(net, example), prune(net, example, threshold=0.0).report
    assert left["params"] == report.params_after / report.params_before < 1.0
    assert left["macs"] == report.macs_after / report.macs_before < 1.0


def test_statistics_of_norms_count_as_training_left_them():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)
    ).eval()
    example = (torch.randn(2, 3, 6, 6),)
    watch = watcher(analyse(normalise(trace(net, example))), model=net)
    with torch.no_grad():
        net[0].weight[:3] = 0
        net[1].bias.fill_(0.1)
    constant = watch(dict(net.named_parameters()))
    assert constant["macs"] == fraction(net, example)  # relu(0.1) goes on into the padded convolution
    net[1].running_mean.fill_(1.0)  # relu(0.1 - 1) does not
    silent = watch(dict(net.named_parameters()))
    assert silent["macs"] == fraction(net, example) < constant["macs"]


def fraction(net, example):
    report = prune(net, example, threshold=0.0).report
    return report.macs_after / report.macs_before
