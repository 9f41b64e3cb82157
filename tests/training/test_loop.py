from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from sslcli.errors import DeviceError, TargetError
from sslcli.options.training import RegularizeOptions, TrainOptions
from sslcli.sparsity.penalty import WeightedSet
from sslcli.sparsity.zeros import zero_groups
from sslcli.training.evaluate import measure
from sslcli.training.loop import fit
from sslcli.training.step import Stepper, amp_dtype
from sslcli.training.task import classification


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def sparse(**values):
    return RegularizeOptions(epochs=4, lr=0.05, **values)


def test_training_learns(net, data):
    result = fit(net, None, data, TrainOptions(epochs=6, lr=0.05), batch_size=16)
    assert result.metrics["accuracy"] > 0.9
    assert (result.epochs, result.steps) == (6, 36)
    assert [record["epoch"] for record in result.history] == [1, 2, 3, 4, 5, 6]
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize("solver", ["prox", "subgradient"])
def test_strength_zero_is_plain_training_bit_for_bit(solver, make_net, data, sets, weights):
    plain, penalised = make_net(dropout=0.2), make_net(dropout=0.2)
    fit(plain, None, data, TrainOptions(epochs=4, lr=0.05, keep="last"), batch_size=16)
    penalties = [WeightedSet(group_set, 0.0) for group_set in sets(penalised, "filter", "shape")]
    fit(penalised, None, data, sparse(solver=solver), batch_size=16, penalties=penalties)
    assert same(weights(plain), weights(penalised))


@pytest.mark.parametrize("solver", ["prox", "subgradient"])
def test_a_look_is_at_the_gradients_of_the_loss_alone(solver, trained, data, sets):
    inputs, targets = data.train.batch(torch.arange(16))
    alone = copy.deepcopy(trained).train()
    nn.functional.cross_entropy(alone(inputs), targets).backward()
    wanted = {name: (value.detach() * value.grad) for name, value in alone.named_parameters()}
    seen = {}

    def look(parameters):
        seen.update({name: value.detach() * value.grad for name, value in parameters.items()})

    stepper = Stepper(trained.train(), classification(), sparse(solver=solver), torch.device("cpu"))
    stepper.penalise([WeightedSet(entry, 5.0) for entry in sets(trained, "filter")])
    stepper.step(inputs, targets, 0.05, look=look)
    assert seen.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(seen[name], value)


def test_prox_ends_with_groups_at_exactly_zero(trained, data, sets):
    group_sets = sets(trained, "filter", "shape", layers=["conv2"])
    penalties = [WeightedSet(group_set, 1e-2) for group_set in group_sets]
    result = fit(trained, None, data, sparse(), batch_size=16, penalties=penalties)
    dead = zero_groups(dict(trained.named_parameters()), group_sets)
    counted = sum(int(zeros.sum()) for zeros in dead)
    assert counted > 5
    assert not all(bool(zeros.all()) for zeros in dead)
    assert sum(zeros for zeros, _ in result.zero_groups.values()) == counted
    assert result.metrics["accuracy"] > 0.8


def test_fine_tuning_keeps_zero_groups_and_moves_the_others(trained, data, sets, weights):
    group_sets = sets(trained, "filter", "shape", layers=["conv2"])
    penalties = [WeightedSet(group_set, 1e-2) for group_set in group_sets]
    seen = []

    def observe(progress):
        if progress.kind == "epoch":
            seen.append((progress.phase, weights(trained), progress.strengths))

    fit(
        trained,
        None,
        data,
        sparse(finetune_epochs=2),
        batch_size=16,
        penalties=penalties,
        observers=[observe],
    )
    assert [phase for phase, _, _ in seen] == ["sparse"] * 4 + ["finetune"] * 2
    assert seen[3][2] == {"filter": 1e-2, "shape": 1e-2}
    assert seen[4][2] == {}
    before, after = seen[3][1], seen[5][1]
    for group_set in group_sets:
        zeros = zero_groups(before, [group_set])[0]
        assert torch.equal(zero_groups(after, [group_set])[0], zeros)
    assert not torch.equal(before["conv2.weight"], after["conv2.weight"])


def test_held_groups_stay_zero_in_plain_training(net, data, sets):
    with torch.no_grad():
        net.conv2.weight[3] = 0
        net.conv2.weight[:, 2, 1, 1] = 0
    group_sets = sets(net, "filter", "shape")
    fit(net, None, data, TrainOptions(epochs=2, freeze_zeros=True), batch_size=16, held=group_sets)
    assert not net.conv2.weight[3].any()
    assert not net.conv2.weight[:, 2, 1, 1].any()
    fit(net, None, data, TrainOptions(epochs=1), batch_size=16, held=group_sets)
    assert net.conv2.weight[:, 2, 1, 1].any()


def test_subgradient_leaves_no_element_below_the_threshold(net, data, sets):
    penalties = [WeightedSet(s, 5e-3, size_weights=False) for s in sets(net, "filter", "shape")]
    fit(
        net,
        None,
        data,
        sparse(solver="subgradient", element_threshold=1e-2),
        batch_size=16,
        penalties=penalties,
    )
    magnitudes = net.conv2.weight.abs()
    assert ((magnitudes == 0) | (magnitudes >= 1e-2)).all()
    assert (magnitudes == 0).any()
    assert (net.fc.weight.abs() < 1e-2).any()


def test_the_same_seed_gives_the_same_bits_and_another_does_not(make_net, data, weights):
    found = []
    for seed in (0, 0, 1):
        model = make_net(dropout=0.3)
        torch.manual_seed(len(found))
        fit(model, None, data, TrainOptions(epochs=2), batch_size=16, seed=seed)
        found.append(weights(model))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_global_state_is_left_as_it_was(net, data):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    net.train()
    net.bn.eval()
    with torch.no_grad():
        fit(net, None, data, TrainOptions(epochs=1), batch_size=16)
    assert torch.equal(torch.get_rng_state(), before)
    assert net.training
    assert not net.bn.training


def test_best_keeps_the_best_epoch(net, data):
    result = fit(net, None, data, TrainOptions(epochs=5, lr=0.2, schedule="constant"), batch_size=16)
    accuracies = [record["metrics"]["accuracy"] for record in result.history]
    assert result.metrics["accuracy"] == max(accuracies)
    assert result.kept_epoch == accuracies.index(max(accuracies)) + 1


def test_max_steps_cuts_the_run(net, data):
    result = fit(net, None, data, TrainOptions(epochs=10, max_steps=8), batch_size=16)
    assert (result.steps, result.epochs) == (8, 2)


def test_divergence_names_what_to_lower(net, data, sets):
    penalties = [WeightedSet(sets(net, "filter")[1], 1e-6)]
    with pytest.raises(TargetError, match="training diverged") as raised:
        fit(net, None, data, sparse().model_copy(update={"lr": 1e18}), batch_size=16, penalties=penalties)
    assert raised.value.exit_code == 5
    assert "filter (1e-06 on conv2)" in str(raised.value)


def test_collapse_names_the_strength_to_lower(net, data, sets):
    penalties = [WeightedSet(s, 5.0) for s in sets(net, "shape")]
    with pytest.raises(TargetError, match=r"collapsed.*shape group") as raised:
        fit(net, None, data, sparse(), batch_size=16, penalties=penalties)
    assert "lower the strength of shape (5 on conv" in str(raised.value)


@pytest.mark.parametrize(("epoch", "lower"), [(2, "lower --lr (0.05)"), (4, "lower --finetune-lr (0.02)")])
def test_a_collapse_names_the_learning_rate_as_it_was_given(epoch, lower, net, data, sets, monkeypatch):
    seen = []

    def constant_in(*arguments, **values):
        seen.append(True)
        return replace(measure(*arguments, **values), constant=len(seen) == epoch)

    monkeypatch.setattr("sslcli.training.run.measure", constant_in)
    chosen = RegularizeOptions(epochs=3, lr=0.05, finetune_epochs=2, finetune_lr=0.02)
    with pytest.raises(TargetError, match="training collapsed") as raised:
        fit(net, None, data, chosen, batch_size=16, penalties=[WeightedSet(sets(net, "filter")[0], 1e-5)])
    assert raised.value.hint == lower


def test_a_teacher_is_followed(make_net, data):
    teacher, student, alone = make_net(), make_net(seed=9), make_net(seed=9)
    fit(teacher, None, data, TrainOptions(epochs=6, lr=0.05), batch_size=16)
    options = TrainOptions(epochs=3, lr=0.02, teacher_weight=1.0, keep="last")
    fit(student, None, data, options, batch_size=16, teacher=teacher)
    fit(alone, None, data, options, batch_size=16)
    inputs, _ = data.test.batch(torch.arange(48))

    def distance(model):
        model.eval()
        teacher.eval()
        with torch.no_grad():
            return float((model(inputs).softmax(1) - teacher(inputs).softmax(1)).abs().mean())

    assert distance(student) < 0.9 * distance(alone)


def test_watch_is_reported(net, data):
    result = fit(
        net, None, data, TrainOptions(epochs=1), batch_size=16,
        watch=lambda parameters: {"macs": len(parameters) / 100},
    )  # fmt: skip
    assert result.left == result.history[0]["left"] == {"macs": 0.08}


def test_strengths_follow_their_schedule(net, data, sets):
    penalties = [WeightedSet(s, 1e-3) for s in sets(net, "filter")]
    options = sparse(strength_schedule="staged", strength_milestones=(1, 2), strength_factors=(2, 1, 0))
    result = fit(net, None, data, options, batch_size=16, penalties=penalties)
    assert [record["strengths"]["filter"] for record in result.history] == [2e-3, 1e-3, 0.0, 0.0]


def test_clipping_bounds_the_first_move(make_net, data, weights):
    model = make_net(norm=False)
    before = weights(model)
    options = TrainOptions(epochs=1, max_steps=1, lr=1.0, momentum=0.0, clip_norm=1e-3, schedule="constant")
    fit(model, None, data, options, batch_size=16)
    moved = math.sqrt(sum(float((weights(model)[name] - before[name]).square().sum()) for name in before))
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_adamw_trains(trained, data, sets):
    penalties = [WeightedSet(s, 1.0) for s in sets(trained, "shape", layers=["conv2"])]
    options = RegularizeOptions(epochs=8, lr=5e-3, optimizer="adamw")
    result = fit(trained, None, data, options, batch_size=16, penalties=penalties)
    assert result.metrics["accuracy"] > 0.8
    assert 0 < result.zero_groups["shape"][0] < 54


def test_fp16_on_the_cpu_is_refused(net, data):
    with pytest.raises(DeviceError, match="fp16"):
        fit(net, None, data, TrainOptions(epochs=1, amp="fp16"), batch_size=16)


def test_bf16_trains_on_the_cpu(net, data):
    result = fit(net, None, data, TrainOptions(epochs=4, lr=0.05, amp="bf16"), batch_size=16)
    assert result.metrics["accuracy"] > 0.8
    assert net.conv1.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("units", "dtype"),
    [({"amx_bf16"}, torch.bfloat16), ({"avx512_bf16"}, torch.bfloat16), ({"avx512_f", "amx_int8"}, None)],
)
def test_automatic_precision_on_a_cpu_asks_for_products_of_bf16(units, dtype, monkeypatch):
    names = ("avx512_f", "avx512_bf16", "amx_int8", "amx_bf16")
    told = {name: name in units for name in names}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert amp_dtype("auto", torch.device("cpu")) == dtype
    assert amp_dtype("off", torch.device("cpu")) is None


def test_releases_of_torch_that_do_not_tell_stay_in_full_precision(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert amp_dtype("auto", torch.device("cpu")) is None


def test_auxiliary_heads_are_trained_too(data):
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.side = nn.Linear(64, 3), nn.Linear(64, 3)

        def forward(self, x):
            x = x.flatten(1)
            return (self.main(x), self.side(x)) if self.training else self.main(x)

    model = TwoHeads()
    before = model.side.weight.detach().clone()
    result = fit(model, None, data, TrainOptions(epochs=3, lr=0.05), batch_size=16)
    assert result.metrics["accuracy"] > 0.8
    assert not torch.equal(model.side.weight, before)
