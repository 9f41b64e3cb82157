import copy
import math

import pytest
import torch
from torch import nn

from sslcli.data.source import DataSource
from sslcli.errors import DataError
from sslcli.graph.groups import find_groups
from sslcli.graph.normalise import normalise
from sslcli.graph.slots import analyse
from sslcli.graph.trace import trace
from sslcli.targeting.norms import find_norms
from sslcli.targeting.sensitivity import probe, sensitivity
from sslcli.training.evaluate import evaluate
from sslcli.training.task import Task


def test_curves_fall_where_filters_matter_and_the_model_is_left_as_it_was(trained, data, example):
    before = copy.deepcopy(trained.state_dict())
    found = sensitivity(trained, example, data, fractions=(0.0, 0.25, 0.5, 1.0))
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert [curve.label for curve in found.curves] == ["conv1", "conv2+branch"] or len(found.curves) >= 2
    assert found.split == "validation"
    assert found.samples == 96
    assert found.whole > 0.9
    for curve in found.curves:
        assert curve.removed == (0.25, 0.5, (curve.groups - 1) / curve.groups)
    assert min(curve.metric[-1] for curve in found.curves) < found.whole


@pytest.mark.parametrize(("count", "numbers"), [(2, [1]), (3, [1, 2]), (4, [1, 2, 3]), (8, [1, 2, 4, 6, 7])])
def test_shares_are_those_of_whole_groups_and_never_all(count, numbers, data):
    net = nn.Sequential(nn.Conv2d(1, count, 3), nn.ReLU(), nn.Flatten(), nn.Linear(count * 36, 3))
    found = sensitivity(net, (torch.randn(2, 1, 8, 8),), data)
    (curve,) = [curve for curve in found.curves if curve.label.startswith("0")]
    assert curve.removed == tuple(number / count for number in numbers)
    assert len(curve.metric) == len(numbers)


def test_few_samples_are_spread_over_the_split(trained, data, example):
    seen = []

    class Seen:
        def __len__(self):
            return len(data.validation)

        def batch(self, indices, *, seed=0, epoch=0):
            seen.extend(indices.tolist())
            return data.validation.batch(indices)

    watched = DataSource("seen", data.train, Seen(), None, None, (1, 8, 8), ("a", "b", "c"))
    found = sensitivity(trained, example, watched, fractions=(), samples=4)
    assert seen == [0, 24, 48, 72]
    assert found.samples == 4


def test_data_to_judge_by_are_needed(trained, data, example):
    bare = DataSource("bare", data.train, None, None, None, (1, 8, 8), ("a", "b", "c"))
    with pytest.raises(DataError, match="neither validation nor test"):
        sensitivity(trained, example, bare)


def test_a_probe_is_the_loss_without_the_quarter_of_least_norm(trained, data, example):
    before = copy.deepcopy(trained.state_dict())
    sets = find_groups(analyse(normalise(trace(trained, example))), "filter")
    first, second = probe(trained, data, sets, 0.25)
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert int(first.gone.sum()) == int(second.gone.sum()) == 3
    norms = trained.conv1.weight.detach().flatten(1).norm(dim=1)
    assert torch.equal(first.gone, norms <= norms.sort().values[2])
    whole = evaluate(trained, None, data.validation)["loss"]
    with torch.no_grad():
        trained.conv1.weight[first.gone] = 0
    assert first.rise == pytest.approx(evaluate(trained, None, data.validation)["loss"] - whole)
    assert first.rise != 0


@pytest.mark.parametrize(("share", "gone"), [(0.0, 1), (0.5, 6), (0.7, 8), (1.0, 11)])
def test_a_probe_takes_some_groups_and_never_all(share, gone, trained, data, example):
    structure = analyse(normalise(trace(trained, example)))
    (branch,) = find_groups(structure, "depth")
    assert branch.count == 1
    first, *_, last = probe(trained, data, [*find_groups(structure, "filter"), branch], share)
    assert int(first.gone.sum()) == gone
    assert last is None


def test_what_is_dead_is_not_probed(trained, data, example):
    with torch.no_grad():
        trained.conv1.weight[[0, 5, 7, 9]] = 0
    (first, _) = probe(trained, data, find_groups(analyse(normalise(trace(trained, example))), "filter"), 0.5)
    assert int(first.gone.sum()) == 4
    assert not bool(first.gone[[0, 5, 7, 9]].any())
    assert first.rise != 0


@pytest.mark.parametrize("broken", ["loss", "metric"])
def test_a_loss_that_is_no_number_is_infinite(broken, trained, data, example):
    """Without its second filter the network has an output of NaN; a task without a metric does not matter."""
    sets = find_groups(analyse(normalise(trace(trained, example))), "filter")[:1]

    def loss(outputs, targets):
        whole = bool((trained.conv1.weight.flatten(1) != 0).any(1).all())
        return nn.functional.cross_entropy(outputs, targets) * (
            1 if whole or broken == "metric" else math.nan
        )

    def metric(outputs, targets):
        whole = bool((trained.conv1.weight.flatten(1) != 0).any(1).all())
        return torch.full((len(targets),), 1.0 if whole else math.nan)

    task = Task(name="own", loss=loss, metric=metric, metric_name="score")
    (found,) = probe(trained, data, sets, 0.5, task=task)
    assert math.isfinite(found.rise) if broken == "metric" else found.rise == math.inf


def test_norms_have_settled_on_what_is_left_out(data, example):
    """Behind a zero filter a norm gives its bias, not what its mean of the living filter makes of 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        ).eval()
    with torch.no_grad():
        net[0].weight[1] *= 0.01
        net[0].weight[3] = net[0].bias[3] = 0  # as it came, and so is the whole measured
        net[1].running_mean.fill_(-3.0)
    structure = analyse(normalise(trace(net, example)))
    sets, norms = find_groups(structure, "filter")[:1], find_norms(structure, net)
    before = copy.deepcopy(net.state_dict())
    (found,) = probe(net, data, sets, 0.25, norms=norms)
    curve = sensitivity(net, example, data, fractions=(0.5,)).curves[0]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert found.gone.tolist() == [False, True, False, False]
    whole = evaluate(net, None, data.validation)["loss"]
    with torch.no_grad():
        for tensor in (net[0].weight, net[0].bias, net[1].running_mean):
            tensor[1] = 0
    settled = evaluate(net, None, data.validation)
    assert found.rise == pytest.approx(settled["loss"] - whole)
    assert curve.metric == (settled["accuracy"],)
