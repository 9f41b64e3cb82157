from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sslcli.errors import InputError, UsageError
from sslcli.options.training import RegularizeOptions, TrainOptions
from sslcli.surgery import prune
from sslcli.targeting import regularize, train


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_train_leaves_the_model_and_returns_a_better_copy(net, data, example):
    net.train()
    before = copy.deepcopy(net.state_dict())
    result = train(net, example, data, options=TrainOptions(epochs=6, lr=0.03), batch_size=16)
    assert same(net.state_dict(), before)
    assert net.training
    assert result.metrics["accuracy"] > 0.9
    assert not result.model.training
    assert result.plan is None


def test_strength_zero_is_train_bit_for_bit(net, data, example):
    plain = train(net, example, data, options=TrainOptions(epochs=2, keep="last"), batch_size=16)
    options = RegularizeOptions(epochs=2)
    zero = regularize(
        net, example, data, structures={"filter": 0.0, "shape": 0}, options=options, batch_size=16
    )
    assert same(plain.model.state_dict(), zero.model.state_dict())


def test_what_is_zero_is_pruned_without_a_trace(trained, data, example):
    result = regularize(
        trained, example, data, structures={"filter": {"conv*": 1e-2}, "shape": 2e-3},
        options=RegularizeOptions(epochs=6, lr=0.03, finetune_epochs=2), batch_size=16,
    )  # fmt: skip
    assert result.zero_groups["filter"]
    assert result.fit.left["macs"] < 0.9
    pruned = prune(result.model, example, threshold=0.0)
    assert pruned.report.macs_after == pytest.approx(result.fit.left["macs"] * pruned.report.macs_before)
    inputs = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        torch.testing.assert_close(pruned.model(inputs), result.model(inputs), atol=1e-5, rtol=1e-5)
    assert result.metrics["accuracy"] > 0.8


def test_a_later_entry_holds_where_several_match(net, data, example):
    options = RegularizeOptions(epochs=1, max_steps=1)
    structures = [("filter", 1e-3, "*"), ("filter", 0.0, "conv1")]
    result = regularize(
        net, example, data,
        structures=[{"name": n, "strength": s, "match": g} for n, s, g in structures],
        options=options, batch_size=16,
    )  # fmt: skip
    assert result.fit.strengths["filter:conv1"] == 0.0
    assert {v for k, v in result.fit.strengths.items() if k != "filter:conv1"} == {1e-3}


def test_a_glob_that_matches_nothing_names_the_nearest(net, data, example):
    with pytest.raises(InputError, match="the glob 'covn1' matches no layer with filter groups") as raised:
        regularize(net, example, data, structures={"filter": {"covn1": 1.0}})
    assert "conv1" in str(raised.value.hint)


def test_a_structure_that_the_network_lacks_is_an_error(net, data, example):
    with pytest.raises(InputError, match="no layer with head groups"):
        regularize(net, example, data, structures={"head": 1.0})


def test_without_a_structure_there_is_nothing_to_do(net, data, example):
    with pytest.raises(UsageError, match="no structure"):
        regularize(net, example, data)


def zeroed(net):
    with torch.no_grad():
        net.conv1.weight[4] = 0
        net.branch.weight[:, 3, 1, 1] = 0
    return net


def test_recorded_zero_groups_are_held_by_default(net, data, example):
    zeros = {"filter": {"conv1": 1}, "shape": {"branch": 1}}
    options = TrainOptions(epochs=2, lr=0.03)
    held = train(zeroed(net), example, data, zeros=zeros, options=options, batch_size=16)
    assert not held.model.conv1.weight[4].any()
    assert not held.model.branch.weight[:, 3, 1, 1].any()
    assert held.zero_groups["filter"]["conv1"] == 1
    free = train(
        zeroed(net), example, data, zeros=zeros, batch_size=16,
        options=TrainOptions(epochs=2, lr=0.03, freeze_zeros=False),
    )  # fmt: skip
    assert free.model.branch.weight[:, 3, 1, 1].any()


def test_zeros_that_no_record_names_are_free(net, data, example):
    result = train(zeroed(net), example, data, options=TrainOptions(epochs=2, lr=0.03), batch_size=16)
    assert result.model.branch.weight[:, 3, 1, 1].any()


def test_parameters_in_another_memory_format_are_trained(net, data, example):
    net = net.to(memory_format=torch.channels_last)
    result = regularize(
        net, example, data, structures={"shape": 1e-3}, options=RegularizeOptions(epochs=1), batch_size=16
    )
    assert result.fit.zero_groups["shape"][1] > 0


def test_depth_removes_a_branch(trained, data, example):
    result = regularize(
        trained, example, data, structures={"depth": 0.05},
        options=RegularizeOptions(epochs=8, lr=0.03), batch_size=16,
    )  # fmt: skip
    assert not result.model.branch.weight.any()
    assert result.zero_groups["depth"] == {"branch": 1}
    assert result.metrics["accuracy"] > 0.8


def test_a_pruned_network_is_trained_on(trained, data, example):
    options = RegularizeOptions(epochs=6, lr=0.03)
    structures = {"filter": {"conv*": 1e-2}, "shape": {"branch": 1e-2}}
    sparse = regularize(trained, example, data, structures=structures, options=options, batch_size=16)
    small = prune(sparse.model, example)
    assert small.report.macs_after < small.report.macs_before
    zeros = {"shape": {"branch": 1}}
    again = train(
        small.model, small.example, data, zeros=zeros, options=TrainOptions(epochs=1), batch_size=16
    )
    before, after = (m.state_dict()["branch.weight"] for m in (small.model, again.model))
    columns = (before == 0).all(0)
    assert columns.any()
    assert torch.equal((after == 0).all(0), columns)
    assert not torch.equal(before, after)


@pytest.mark.parametrize("target", [0.6, 0.45])
def test_what_a_target_reached_is_what_pruning_leaves_where_norms_learn(data, example, target):
    torch.manual_seed(5)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 36, 3),
    )
    options = RegularizeOptions(epochs=3, finetune_epochs=2, lr=0.05, target={"macs": target})
    found = regularize(net, example, data, options=options, batch_size=16)
    report = prune(found.model, example, threshold=0.0).report
    assert report.macs_after / report.macs_before == found.reached["macs"] <= target
