from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from sslcli.graph.groups import find_groups
from sslcli.graph.normalise import normalise
from sslcli.graph.slots import analyse
from sslcli.graph.trace import trace
from sslcli.options.training import RegularizeOptions, TrainOptions
from sslcli.surgery import prune
from sslcli.targeting import regularize, train
from sslcli.targeting.budget import Budget
from sslcli.targeting.bundles import Bundler
from sslcli.targeting.left import watcher


def grouped_net():
    """conv 1 -> 8, grouped 8 -> 12 (2 groups), grouped 12 -> 12 (4 groups), linear."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(),
        nn.Conv2d(8, 12, 3, groups=2), nn.ReLU(),
        nn.Conv2d(12, 12, 3, groups=4), nn.ReLU(),
        nn.Flatten(), nn.Linear(12 * 4, 3),
    ).eval()  # fmt: skip


EXAMPLE = (torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


def parts(net, kind="filter", free=None):
    structure = analyse(normalise(trace(net, EXAMPLE)))
    sets = find_groups(structure, kind)
    return structure, sets, Bundler(structure, sets, free)


def nothing(sets):
    return [torch.zeros(each.count, dtype=torch.bool) for each in sets]


def test_the_cheapest_of_every_group_go_together():
    """By hand: of conv 0 one of 0..3 with one of 4..7, by rank of their price."""
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 2))
    _, sets, bundler = parts(net.eval())
    assert [each.label for each in sets] == ["0", "1"]
    price = [torch.tensor([4.0, 1.0, 3.0, 2.0, 5.0, 8.0, 6.0, 7.0]), torch.tensor([1.0, 2.0, 4.0, 3.0])]
    found = bundler.bundles(price, nothing(sets))
    first = [{group for _, group in bundle} for bundle in found if bundle[0][0] == 0]
    assert first == [{1, 4}, {3, 6}, {2, 7}, {0, 5}]
    assert [{group for _, group in bundle} for bundle in found if bundle[0][0] == 1] == [{0, 3}, {1, 2}]


def test_what_is_left_of_a_bundle_comes_first():
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 2))
    _, sets, bundler = parts(net.eval())
    gone = nothing(sets)
    gone[0][3] = True
    found = bundler.bundles([torch.arange(8.0), torch.arange(4.0)], gone)
    assert {(0, 3), (0, 4)} in [set(bundle) for bundle in found]  # the cheapest of the other group


@pytest.mark.parametrize("kind", ["filter", "channel"])
def test_every_group_is_in_one_bundle(kind):
    net = grouped_net()
    _, sets, bundler = parts(net, kind)
    price = [torch.rand(each.count, generator=torch.Generator().manual_seed(1)) for each in sets]
    found = [entry for bundle in bundler.bundles(price, nothing(sets)) for entry in bundle]
    assert sorted(found) == [(n, g) for n, each in enumerate(sets) for g in range(each.count)]


def test_a_bundle_saves_what_its_filters_hold():
    """Each takes of the layers that it is of exactly what its filters hold there, rows and columns."""
    net = grouped_net()
    structure, sets, bundler = parts(net)
    price = [torch.rand(each.count, generator=torch.Generator().manual_seed(2)) for each in sets]
    watch = watcher(structure)
    budget = Budget(sets, watch, bundler=bundler)
    parameters = dict(net.named_parameters())
    costs = {0: (8, 36 * 9), 1: (12, 16 * 4 * 9), 2: (12, 4 * 3 * 9)}  # filters and MACs of each layer
    whole = 8 * 36 * 9 + 12 * 16 * 4 * 9 + 12 * 4 * 3 * 9 + 3 * 48
    for bundle in bundler.bundles(price, nothing(sets)):
        gone = nothing(sets)
        for number, group in bundle:
            gone[number][group] = True
        left = budget.left(parameters, gone)["macs"]
        lost = {number: len(list(group)) for number, group in itertools.groupby(sorted(n for n, _ in bundle))}
        shares = {number: lost.get(number, 0) / costs[number][0] for number in costs}
        after = (
            8 * 36 * 9 * (1 - shares[0])
            + 12 * 16 * 4 * 9 * (1 - shares[0]) * (1 - shares[1])
            + 12 * 4 * 3 * 9 * (1 - shares[1]) * (1 - shares[2])
            + 3 * 48 * (1 - shares[2])
        )
        assert len(bundle) > 1
        assert left == pytest.approx(after / whole)


def test_costs_are_those_of_whole_bundles():
    net = grouped_net()
    structure, sets, bundler = parts(net)
    parameters, gone = dict(net.named_parameters()), nothing(sets)
    alone, together = Budget(sets, watcher(structure)), Budget(sets, watcher(structure), bundler=bundler)
    for budget in (alone, together):
        budget.refresh(parameters, gone, 0.0)
    assert alone.costs["macs"][0] == 0.0  # two filters of one half, none of the other
    assert all(cost > 0 for cost in together.costs["macs"])


def test_sets_that_may_not_go_are_in_no_bundle():
    _, sets, bundler = parts(grouped_net(), free=[False, True, True])
    price = [torch.rand(each.count) for each in sets]
    assert {n for bundle in bundler.bundles(price, nothing(sets)) for n, _ in bundle} == {1, 2}


@pytest.mark.parametrize("structures", [{"filter": 1.0}, {"channel": 1.0}, {"filter": 1.0, "shape": 1.0}])
def test_a_network_of_grouped_convolutions_meets_its_target(structures, data):
    dense = train(grouped_net(), EXAMPLE, data, options=TrainOptions(epochs=6, lr=0.03), batch_size=16).model
    options = RegularizeOptions(epochs=20, finetune_epochs=4, lr=0.02, target={"macs": 0.5}, max_drop=10.0)
    result = regularize(dense, EXAMPLE, data, structures=structures, options=options, batch_size=16)
    report = prune(result.model, EXAMPLE, threshold=0.0).report
    name = "macs_packed" if "shape" in structures else "macs"
    after = report.macs_packed if "shape" in structures else report.macs_after
    assert result.reached[name] == pytest.approx(after / report.macs_before)
    assert 0.3 < result.reached[name] <= 0.5
    sparse = [record for record in result.fit.history if record["phase"] == "sparse"]
    assert sparse[-1]["left"][name] < 0.65  # the strengths did it, not the last choice
