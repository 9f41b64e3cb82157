import copy

import pytest
import torch
from torch import nn

from sslcli.graph.groups import find_groups
from sslcli.graph.normalise import normalise
from sslcli.graph.slots import analyse
from sslcli.graph.trace import trace
from sslcli.options.training import RegularizeOptions
from sslcli.surgery import prune
from sslcli.targeting import regularize
from sslcli.targeting.budget import Budget
from sslcli.targeting.left import watcher
from sslcli.targeting.norms import Norm, find_norms, settled
from sslcli.targeting.target import TargetMissedError

EXAMPLE = (torch.zeros(2, 1, 8, 8),)


def network(bias=False):
    """Two convolutions with norms, as they are after training: biases below 0, other statistics."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=bias),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 3),
    )
    for norm in (net[1], net[4]):
        nn.init.uniform_(norm.bias, -0.5, -0.1)
        nn.init.uniform_(norm.running_mean, -2.0, -1.0)
    return net.eval()


def structure_of(net):
    return analyse(normalise(trace(net, EXAMPLE)))


def test_a_norm_is_found_behind_its_layer():
    assert find_norms(structure_of(network())) == [
        Norm("0.weight", None, "1.running_mean"),
        Norm("3.weight", "3.bias", "4.running_mean"),
    ]


def test_a_norm_that_is_used_twice_or_is_not_right_behind_a_layer_stays_as_it_is():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = (nn.Conv2d(1, 4, 3) for _ in range(2))
            self.norm, self.late = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, inputs):
            return self.late(torch.relu(self.norm(self.one(inputs)) + self.norm(self.two(inputs))))

    assert find_norms(structure_of(Shared().eval())) == []


class Linear(nn.Module):
    """A norm whose channels are not the filters of the layer before, and one whose are."""

    def __init__(self, size=16):
        super().__init__()
        self.conv, self.over, self.norm = (
            nn.Conv2d(1, 8, 3, padding=1),
            nn.Linear(64, size),
            nn.BatchNorm1d(8),
        )
        self.norm, self.last = nn.BatchNorm1d(8), nn.BatchNorm1d(4)
        self.head = nn.Linear(8 * size, 4)

    def forward(self, inputs):
        return self.last(self.head(self.norm(self.over(self.conv(inputs).flatten(2))).flatten(1)))


@pytest.mark.parametrize("size", [8, 16])
def test_a_linear_layer_over_many_places_has_its_filters_elsewhere(size):
    found = find_norms(structure_of(Linear(size).eval()))
    assert found == [Norm("head.weight", "head.bias", "last.running_mean")]


class Constants(nn.Module):
    """A weight and statistics that are neither parameters nor buffers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.kernel, self.mean, self.var = torch.randn(4, 4, 3, 3), torch.randn(4), torch.ones(4)

    def forward(self, inputs):
        hidden = nn.functional.batch_norm(self.conv(inputs), self.mean, self.var)
        return self.norm(nn.functional.conv2d(hidden, self.kernel)).flatten(1)


def test_what_does_not_learn_is_left_alone():
    assert find_norms(structure_of(Constants().eval())) == []
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=0.0)).eval()
    assert find_norms(structure_of(net)) == []


def test_a_norm_that_is_kept_in_eval_mode_is_left_alone():
    class Frozen(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(False)

    net = nn.Sequential(nn.Conv2d(1, 4, 3), Frozen(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).eval()
    structure = structure_of(net)
    assert [norm.mean for norm in find_norms(structure)] == ["1.running_mean", "3.running_mean"]
    assert [norm.mean for norm in find_norms(structure, net)] == ["3.running_mean"]
    assert not any(module.training for module in net.modules())


def test_a_bias_that_something_else_reads_is_left_alone():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

        def forward(self, inputs):
            hidden = self.conv(inputs)
            return self.norm(hidden) + hidden

    assert find_norms(structure_of(Forked().eval())) == []


def test_only_what_zero_filters_leave_behind_changes():
    tensors = {
        "weight": torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
        "bias": torch.tensor([0.0, 0.2, 0.5]),
        "mean": torch.tensor([3.0, 4.0, 0.5]),
    }
    found = settled([Norm("weight", "bias", "mean")], tensors)
    assert found["mean"].tolist() == [0.0, 4.0, 0.0]
    assert found["bias"].tolist() == pytest.approx([0.0, 0.2, 0.0])
    assert settled([Norm("weight", "bias", "mean")], {**tensors, **found}) == {}
    assert settled([Norm("weight", None, "mean")], tensors).keys() == {"mean"}
    assert tensors["mean"].tolist() == [3.0, 4.0, 0.5]


@pytest.mark.parametrize("bias", [False, True])
def test_what_is_left_is_counted_as_it_will_be_when_the_statistics_have_settled(bias):
    net = network(bias)
    structure = structure_of(net)
    (filters,) = (found for found in find_groups(structure, "filter") if found.label == "0")
    gone = [torch.arange(8) < 4]
    parameters, norms = dict(net.named_parameters()), find_norms(structure)
    budget = Budget([filters], watcher(structure, None, net, norms), None, None, net, norms)
    macs = [64 * 9 * 8, 64 * 9 * 8 * 4, 256 * 3]
    expected = (macs[0] / 2 + macs[1] / 2 + macs[2]) / sum(macs)
    assert budget.left(parameters, gone)["macs"] == pytest.approx(expected)
    unsettled = Budget([filters], watcher(structure, None, net))
    assert unsettled.left(parameters, gone)["macs"] > expected  # a channel carries the constants

    for phase in range(2):  # the constants are taken for what they are until the groups go for good
        small = copy.deepcopy(net)
        with torch.no_grad():
            small[0].weight[:4] = 0
        found = prune(small, EXAMPLE, threshold=0.0)
        left = found.report.macs_after / found.report.macs_before
        assert (left == pytest.approx(expected)) == (phase == 1)
        budget.settle(parameters, gone)
    assert net[1].running_mean[:4].tolist() == [0.0] * 4
    assert bool((net[1].running_mean[4:] < -1).all())


@pytest.mark.parametrize("bias", [False, True])
def test_fine_tuning_does_not_take_the_network_further_below_its_target(data, bias):
    net = network(bias)
    options = RegularizeOptions(epochs=3, lr=0.02, finetune_epochs=10, target={"macs": 0.6})
    course = []
    found = regularize(net, EXAMPLE, data, options=options, batch_size=16, observers=[course.append])
    left = [record.left["macs"] for record in course if record.kind == "epoch" and record.phase == "finetune"]
    assert left == [found.fit.left["macs"]] * 10
    assert found.fit.left["macs"] <= 0.6
    pruned = prune(found.model, EXAMPLE, threshold=0.0)
    assert pruned.report.macs_after / pruned.report.macs_before == pytest.approx(found.fit.left["macs"])


def test_settling_changes_nothing_in_training():
    """A norm takes the bias away, and a zero filter has the norm's bias whatever the running mean."""
    net = network(bias=True)
    structure = structure_of(net)
    (filters,) = (found for found in find_groups(structure, "filter") if found.label == "0")
    gone, parameters = [torch.arange(8) < 4], dict(net.named_parameters())
    with torch.no_grad():
        net[0].weight[:4] = 0
    inputs = torch.randn(16, 1, 8, 8)
    before = copy.deepcopy(net).train()(inputs)
    norms = find_norms(structure, net)
    Budget([filters], watcher(structure, None, net, norms), None, None, net, norms).settle(parameters, gone)
    assert net[0].bias[:4].tolist() == [0.0] * 4
    torch.testing.assert_close(copy.deepcopy(net).train()(inputs), before, rtol=1e-4, atol=1e-5)


def test_a_run_that_collapsed_tells_what_pruning_leaves(data, monkeypatch):
    """Its weights are of before the choice, with statistics of filters that were alive."""
    net, seen = network(), []

    def constant(outputs):
        seen.append(True)
        return torch.tensor(len(seen) > 4)

    monkeypatch.setattr("sslcli.training.run.is_constant", constant)
    monkeypatch.setattr("sslcli.training.run._LOOK_OUTPUTS", 8)
    options = RegularizeOptions(epochs=12, lr=0.02, finetune_epochs=2, target={"macs": 0.3})
    with pytest.raises(TargetMissedError) as raised:
        regularize(net, EXAMPLE, data, options=options, batch_size=16)
    nearest = raised.value.nearest
    assert nearest.fit.spoiled is not None
    assert 0.3 < nearest.fit.left["macs"] < 1
    pruned = prune(nearest.model, EXAMPLE, threshold=0.0)
    assert pruned.report.macs_after / pruned.report.macs_before == pytest.approx(nearest.fit.left["macs"])
