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

EXAMPLE = (torch.zeros(2, 1, 8, 8),)


def network():
    """Two convolutions with norms, as they are after training: biases below 0, other statistics."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
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


def test_only_means_of_filters_that_give_nothing_change():
    tensors = {
        "weight": torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
        "bias": torch.tensor([0.0, 0.0, 0.5]),
        "mean": torch.tensor([3.0, 4.0, 5.0]),
    }
    norm = Norm("weight", "bias", "mean")
    assert settled([norm], tensors)["mean"].tolist() == [0.0, 4.0, 5.0]
    assert settled([norm], {**tensors, "mean": torch.tensor([0.0, 4.0, 5.0])}) == {}
    assert tensors["mean"].tolist() == [3.0, 4.0, 5.0]


def test_what_is_left_is_counted_as_it_will_be_when_the_statistics_have_settled():
    net = network()
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


def test_fine_tuning_does_not_take_the_network_further_below_its_target(data):
    net = network()
    options = RegularizeOptions(epochs=3, lr=0.02, finetune_epochs=2, target={"macs": 0.6})
    course = []
    found = regularize(net, EXAMPLE, data, options=options, batch_size=16, observers=[course.append])
    left = [record.left["macs"] for record in course if record.kind == "epoch" and record.phase == "finetune"]
    assert left == [found.fit.left["macs"]] * 2
    assert found.fit.left["macs"] <= 0.6
    pruned = prune(found.model, EXAMPLE, threshold=0.0)
    assert pruned.report.macs_after / pruned.report.macs_before == pytest.approx(found.fit.left["macs"])
