from __future__ import annotations

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


def of_set(number, bundles):
    """The groups of each bundle that begins with one of a set."""
    return [[group for _, group in bundle] for bundle in bundles if bundle[0][0] == number]


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


class Shuffled(nn.Module):
    """A grouped convolution, a channel shuffle, and another grouped convolution of as many groups."""

    def __init__(self, channels, groups):
        super().__init__()
        self.groups = groups
        self.stem = nn.Conv2d(1, channels, 3)
        self.before = nn.Conv2d(channels, channels, 1, groups=groups)
        self.after = nn.Conv2d(channels, channels, 1, groups=groups)
        self.last = nn.Linear(channels, 2)

    def forward(self, x):
        x = self.before(self.stem(x)).relu()
        x = x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        return self.last(self.after(x).relu().mean((2, 3)))


@pytest.mark.parametrize(("channels", "groups"), [(24, 2), (24, 4), (48, 8), (60, 3)])
def test_bundles_across_a_shuffle_take_one_of_every_group_on_both_sides(channels, groups):
    """What is even before the shuffle is not so after it; matchings are, down to the last."""
    _, sets, bundler = parts(Shuffled(channels, groups).eval())
    price = [torch.rand(each.count, generator=torch.Generator().manual_seed(3)) for each in sets]
    number = next(n for n, each in enumerate(sets) if each.label == "before")
    width = channels // groups
    found = of_set(number, bundler.bundles(price, nothing(sets)))
    assert [len(bundle) for bundle in found] == [groups] * width
    for bundle in found:
        assert sorted(group // width for group in bundle) == list(range(groups))
        # the shuffle reads (groups, width) as (width, groups), whose rows of `width` are the groups behind it
        places = [(group % width) * groups + group // width for group in bundle]
        assert sorted(place // width for place in places) == list(range(groups))


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 16), (16, 8)])
def test_groups_of_one_channel_or_filter_go_whole(inputs, outputs, data):
    """A depthwise multiplier, and two channels summed into one filter: the other groups lose nothing."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, inputs, 3), nn.ReLU(), nn.Conv2d(inputs, outputs, 3, groups=8), nn.ReLU(),
        nn.Conv2d(outputs, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3),
    ).eval()  # fmt: skip
    _, sets, bundler = parts(net)
    price = [torch.rand(each.count, generator=torch.Generator().manual_seed(4)) for each in sets]
    sides = [(0, inputs // 8), (1, outputs // 8)]
    whole = {
        tuple((number, g * width + i) for number, width in sides for i in range(width)) for g in range(8)
    }
    found = {tuple(sorted(bundle)) for bundle in bundler.bundles(price, nothing(sets))}
    assert len(whole & found) >= 3  # others are one filter of every group, and what is then left of each
    assert max(map(len, found)) < inputs + outputs - 8
    options = RegularizeOptions(epochs=20, finetune_epochs=2, lr=0.02, target={"macs": 0.5})
    result = regularize(net, EXAMPLE, data, options=options, batch_size=16)
    report = prune(result.model, EXAMPLE, threshold=0.0).report
    assert 0.3 < report.macs_after / report.macs_before <= 0.5


def test_units_that_no_set_owns_are_in_no_bundle():
    """Two learned maps beside six filters: convolution groups of the filters alone are even."""

    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.maps = nn.Conv2d(1, 6, 3), nn.Parameter(torch.randn(1, 2, 6, 6))
            self.grouped, self.last = nn.Conv2d(8, 4, 3, groups=2), nn.Linear(4, 2)

        def forward(self, x):
            x = torch.cat([self.maps.expand(len(x), -1, -1, -1), self.first(x)], 1)
            return self.last(self.grouped(x).relu().mean((2, 3)))

    _, sets, bundler = parts(Beside().eval())
    number = next(n for n, each in enumerate(sets) if each.label == "first")
    price = [torch.arange(1.0, each.count + 1) for each in sets]
    found = [set(bundle) for bundle in of_set(number, bundler.bundles(price, nothing(sets)))]
    # of the first group of four two are maps, so two filters are left there beside four
    assert found[:2] == [{0, 2}, {1, 3}]
    assert {frozenset(bundle) for bundle in found[2:]} == {frozenset({4}), frozenset({5})}


def test_costs_stay_those_of_bundles_that_are_half_gone():
    net = grouped_net()
    structure, sets, bundler = parts(net)
    parameters, costs = dict(net.named_parameters()), []
    for gone in ((), (0, 6)):  # one filter of each of two convolution groups, of four behind them
        budget, marks = Budget(sets, watcher(structure), bundler=bundler), nothing(sets)
        marks[1][list(gone)] = True
        budget.refresh(parameters, marks, 0.0)
        costs.append(budget.costs["macs"][1])
    assert costs[1] == pytest.approx(costs[0], rel=0.05)


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


def test_bundles_save_what_their_filters_hold_one_after_the_other():
    """Each takes of its layer exactly what its filters hold there, rows and columns."""
    net = grouped_net()
    structure, sets, bundler = parts(net)
    price = [torch.rand(each.count, generator=torch.Generator().manual_seed(2)) for each in sets]
    budget, parameters = Budget(sets, watcher(structure), bundler=bundler), dict(net.named_parameters())
    filters, lost, gone = (8, 12, 12), [0, 0, 0], nothing(sets)
    whole = 8 * 36 * 9 + 12 * 16 * 4 * 9 + 12 * 4 * 3 * 9 + 3 * 48
    for bundle, size in zip(bundler.bundles(price, nothing(sets)), (2, 4, 4, 4), strict=False):
        for number, group in bundle:
            gone[number][group] = True
            lost[number] += 1
        assert len(bundle) == size
        assert len({number for number, _ in bundle}) == 1
        a, b, c = (1 - gone_of / count for gone_of, count in zip(lost, filters, strict=True))
        left = 8 * 36 * 9 * a + 12 * 16 * 4 * 9 * a * b + 12 * 4 * 3 * 9 * b * c + 3 * 48 * c
        assert budget.left(parameters, gone)["macs"] == pytest.approx(left / whole)
    assert lost == [2, 8, 4]


def test_costs_are_those_of_whole_bundles():
    net = grouped_net()
    structure, sets, bundler = parts(net)
    parameters, gone = dict(net.named_parameters()), nothing(sets)
    alone, together = Budget(sets, watcher(structure)), Budget(sets, watcher(structure), bundler=bundler)
    for budget in (alone, together):
        budget.refresh(parameters, gone, 0.0)
    assert alone.costs["macs"][0] == 0.0  # two filters of one half, none of the other
    *others, last = together.costs["macs"]
    assert all(cost > 0 for cost in others)
    assert last == 0.0  # its only bundle is all of it, so no path would be left


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
