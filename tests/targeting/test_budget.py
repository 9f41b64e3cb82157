import torch
from torch import nn

from sslcli.graph.groups import find_groups
from sslcli.graph.slots import analyse
from sslcli.graph.trace import trace
from sslcli.targeting.budget import Budget
from sslcli.targeting.left import watcher


def test_filters_whose_constants_need_a_carrier_have_a_cost():
    """The first dead filter before a padded convolution saves nothing; a quarter of them do."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    nn.init.uniform_(norm.bias, 0.5, 1.0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).eval()
    structure = analyse(trace(net, (torch.randn(2, 1, 8, 8),)))
    sets = [found for found in find_groups(structure, "filter") if found.label == "0"]
    budget = Budget(sets, watcher(structure))
    budget.refresh(dict(net.named_parameters()), [torch.zeros(8, dtype=torch.bool)], 0.0)
    first = 8 * 9 * 64 + 8 * 4 * 9 * 64
    saved = (9 * 64 + 4 * 9 * 64) / first  # two filters are marked, one of them stays to carry
    assert budget.costs["macs"][0] == saved / 2
