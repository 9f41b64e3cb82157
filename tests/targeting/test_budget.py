import pytest
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


@pytest.fixture
def priced():
    """Two sets: a group of the first saves mostly parameters, one of the second mostly MACs."""
    budget = Budget([], lambda parameters: {})
    budget.costs = {"params": [0.03, 0.01, 0.0], "macs": [0.01, 0.04, 0.0]}
    return budget


@pytest.mark.parametrize("limit", [0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("left", [0.2, 0.95, 1.0])
def test_a_single_target_counts_whole_wherever_it_stands(priced, limit, left):
    for number in range(3):
        cost = priced.costs["params"][number]
        assert priced.burden(number, {"params": limit}, {"params": left}) == cost / max(1 - limit, 1e-6)


@pytest.mark.parametrize("loose", [1.0, 0.95])
def test_a_target_that_is_met_weighs_nothing(priced, loose):
    left = {"params": 0.8, "macs": 0.95}
    for number in range(3):
        alone = priced.burden(number, {"params": 0.5}, left)
        assert priced.burden(number, {"params": 0.5, "macs": loose}, left) == alone


def test_targets_weigh_by_what_is_still_above_them(priced):
    dense = {"params": 1.0, "macs": 1.0}

    def ratio(target, left):
        return priced.burden(1, target, left) / priced.burden(0, target, left)

    assert ratio({"params": 0.5, "macs": 0.5}, dense) == pytest.approx(0.05 / 0.04)
    # 0.7 and 0.05 have to go: 0.7 x 0.01 + 0.05 x 0.04 against 0.7 x 0.03 + 0.05 x 0.01
    assert ratio({"params": 0.3, "macs": 0.95}, dense) == pytest.approx(0.009 / 0.0215)
    nearly, met = ({"params": 0.8, "macs": left} for left in (0.950001, 0.95))
    target = {"params": 0.5, "macs": 0.95}
    assert ratio(target, nearly) == pytest.approx(ratio(target, met), rel=1e-4)  # no jump
