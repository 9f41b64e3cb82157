from __future__ import annotations

import importlib
import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from sslcli.errors import TargetError, UsageError
from sslcli.graph.groups import find_groups
from sslcli.graph.normalise import normalise
from sslcli.graph.slots import analyse
from sslcli.graph.trace import trace
from sslcli.options.training import RegularizeOptions
from sslcli.sparsity.penalty import WeightedSet
from sslcli.surgery import prune
from sslcli.targeting import TargetMissedError, regularize
from sslcli.targeting.budget import Budget
from sslcli.targeting.controller import Group, TargetController, weighed
from sslcli.targeting.left import watcher
from sslcli.targeting.sensitivity import Probe
from sslcli.targeting.target import Target
from sslcli.training.control import Signs
from sslcli.training.evaluate import evaluate, measure
from sslcli.training.progress import MetricsFile
from sslcli.training.state import write_state


def options(**values):
    return RegularizeOptions(**{"epochs": 30, "finetune_epochs": 4, "lr": 0.02, **values})


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("target", [{"macs": 0.5}, {"params": 0.4}, {"macs": 0.6, "params": 0.45}])
def test_a_target_is_met_without_any_strength(target, trained, data, example):
    before = evaluate(trained, None, data.validation)["accuracy"]
    result = regularize(trained, example, data, options=options(target=target, max_drop=3.0), batch_size=16)
    pruned = prune(result.model, example, threshold=0.0)
    report = pruned.report
    found = {
        "macs": report.macs_after / report.macs_before,
        "params": report.params_after / report.params_before,
    }
    for name, limit in target.items():
        assert found[name] <= limit
        assert result.reached[name] == pytest.approx(found[name])
    # no more than a group or two beyond what the tightest limit asks for
    assert any(found[name] > limit - 0.12 for name, limit in target.items())
    assert evaluate(pruned.model, None, data.validation)["accuracy"] >= before - 0.03
    assert result.reached["drop"] <= 3.0


@pytest.mark.parametrize("values", [{"epochs": 2, "finetune_epochs": 1}, {"epochs": 10}])
def test_a_target_that_asks_for_nothing_changes_nothing(values, trained, data, example):
    alone = options(**values, target={"params": 0.5})
    beside = options(**values, target={"macs": 1.0, "params": 0.5})
    first, second = (
        regularize(trained, example, data, options=each, batch_size=16) for each in (alone, beside)
    )
    assert same(first.model.state_dict(), second.model.state_dict())
    assert second.reached["params"] == first.reached["params"] <= 0.5


def test_a_loose_target_leaves_the_choice_to_the_strict_one(trained, data, example):
    """MACs may not fall further than the parameters alone take them, but for a group or two."""
    found = {}
    for name, target in (("alone", {"params": 0.5}), ("loose", {"params": 0.5, "macs": 0.95})):
        chosen = options(epochs=10, target=target)
        found[name] = regularize(trained, example, data, options=chosen, batch_size=16).fit.left
    assert found["loose"]["params"] <= 0.5
    assert found["loose"]["macs"] == pytest.approx(min(0.95, found["alone"]["macs"]), abs=0.1)


class Mixed(nn.Module):
    """A stream that conv and a branch with a depthwise convolution write, and one of linear layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.wide = nn.Conv2d(4, 6, 1, bias=False)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.narrow = nn.Conv2d(6, 4, 1, bias=False)
        self.first = nn.Linear(4, 5, bias=False)
        self.more = nn.Linear(5, 5, bias=False)
        self.last = nn.Linear(5, 3, bias=False)

    def forward(self, x):
        x = self.conv(x).relu()
        x = x + self.narrow(self.depthwise(self.wide(x).relu()).relu())
        x = self.first(x.mean((2, 3)))
        return self.last(x + self.more(x.relu()))


@pytest.mark.parametrize("kind", ["filter", "channel", "hidden", "depth", "shape"])
def test_layers_that_one_sum_collects_are_worth_more_together(kind, example):
    """Roots add up where layers write into one sum or read one, and squares where they lie in series."""
    model = Mixed()
    structure = analyse(normalise(trace(model, example)))
    parameters = dict(model.named_parameters())
    for number, parameter in enumerate(parameters.values()):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    products = {name: (value * value.grad).detach() for name, value in parameters.items()}
    rows = {name.partition(".")[0]: value.flatten(1).norm(dim=1) for name, value in products.items()}
    columns = {
        name.partition(".")[0]: value.transpose(0, 1).flatten(1).norm(dim=1)
        for name, value in products.items()
    }
    wanted = {
        "filter": {
            "conv": (rows["conv"] + rows["narrow"]) ** 2,
            "wide": rows["wide"] ** 2 + rows["depthwise"] ** 2,
            "first": (rows["first"] + rows["more"]) ** 2,
        },
        "channel": {
            "wide": (columns["wide"] + columns["first"]) ** 2,
            "narrow": columns["narrow"] ** 2,
            "more": (columns["more"] + columns["last"]) ** 2,
        },
        "hidden": {"first": (rows["first"] + rows["more"]) ** 2},
        "depth": {
            "wide": sum((rows[name] ** 2).sum() for name in ("wide", "depthwise", "narrow")).view(1),
        },
        "shape": {"wide": products["wide.weight"].flatten(1).norm(dim=0) ** 2},
    }[kind]
    weighted = [WeightedSet(found, 1.0) for found in find_groups(structure, kind)]
    budget = Budget([entry.group_set for entry in weighted], watcher(structure))
    target = Target({"macs": 0.5}, None, 1.0)
    controller = TargetController(weighted, target, budget, 60, ["depthwise.weight"])
    controller.look(parameters)
    found = {
        entry.group_set.label.partition("+")[0]: note.worth
        for entry, note in zip(weighted, controller.notes, strict=True)
    }
    for label, worth in wanted.items():
        torch.testing.assert_close(found[label], 0.05 * worth)


def test_the_depthwise_convolutions_of_a_network_are_found(data, example, monkeypatch):
    seen = []

    class Controller(TargetController):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            seen.append(self.series)

    module = importlib.import_module("sslcli.targeting.train")
    monkeypatch.setattr(module, "TargetController", Controller)
    regularize(Mixed(), example, data, options=options(epochs=1, target={"macs": 0.9}), batch_size=48)
    assert [{"depthwise.weight"} <= series for series in seen] == [True]
    assert not any("wide.weight" in series or "conv.weight" in series for series in seen)


def test_the_last_choice_goes_on_for_what_is_not_met(trained, data, example):
    """Params are met first; from there on the groups that save most MACs for their worth go."""
    structure = analyse(normalise(trace(trained, example)))
    weighted = [WeightedSet(found, 1.0) for found in find_groups(structure, "filter")]
    budget = Budget([entry.group_set for entry in weighted], watcher(structure))
    parameters = dict(trained.named_parameters())
    for limits in ({"params": 0.9, "macs": 0.3}, {"params": 0.3, "macs": 0.9}, {"params": 0.4, "macs": 0.4}):
        controller = TargetController(weighted, Target(limits, None, 1.0), budget, 60)
        for note in controller.notes:
            note.worth.copy_(torch.linspace(1.0, 2.0, len(note.worth)))
        chosen = controller.choose(parameters, 0)
        left = budget.left(parameters, chosen)
        assert all(left[name] <= limit for name, limit in limits.items())
        assert any(left[name] > limit - 0.12 for name, limit in limits.items())


@pytest.mark.parametrize(("limit", "gone"), [(0.97, (1, 0)), (0.9, (0, 1)), (0.85, (1, 1))])
def test_the_last_choice_takes_what_is_worth_least_of_what_is_enough(limit, gone, trained, example):
    """A group of conv1 saves 4.5 % of the MACs and is worth 0.6, one of conv2 and the branch 11.4 % and 1."""
    structure = analyse(normalise(trace(trained, example)))
    weighted = [WeightedSet(found, 1.0) for found in find_groups(structure, "filter")]
    budget = Budget([entry.group_set for entry in weighted], watcher(structure))
    controller = TargetController(weighted, Target({"macs": limit}, None, 1.0), budget, 60)
    for note, worth in zip(controller.notes, (0.6, 1.0), strict=True):
        note.worth.fill_(worth)
    chosen = controller.choose(dict(trained.named_parameters()), 0)
    assert tuple(int(mask.sum()) for mask in chosen) == gone


class Chain(nn.Sequential):
    """MACs: 648 in the first convolution, 1152 in the second, 192 in the classifier; of 1992."""

    def __init__(self, filters=2):
        super().__init__(
            nn.Conv2d(1, filters, 3, bias=False), nn.ReLU(), nn.Conv2d(filters, 4, 3, bias=False), nn.ReLU(),
            nn.Flatten(), nn.Linear(64, 3, bias=False),
        )  # fmt: skip


def counted(net, example):
    """Filters of both convolutions and channels of the second, and what counts without them."""
    structure = analyse(normalise(trace(net, example)))
    filters, channels = find_groups(structure, "filter"), find_groups(structure, "channel")[:1]
    assert [found.label for found in (*filters, *channels)] == ["0", "2", "2"]
    weighted = [WeightedSet(found, 1.0) for found in (*filters, *channels)]
    return weighted, Budget([entry.group_set for entry in weighted], watcher(structure))


def chained(limit, example):
    """One filter of the first convolution and the second's channel of the other are worth least.

    Without both no path is left.
    """
    net = Chain()
    weighted, budget = counted(net, example)
    controller = TargetController(weighted, Target({"macs": limit}, None, 1.0), budget, 60)
    for note, worth in zip(controller.notes, ([0.1, 9.0], [4.0, 5.0, 6.0, 7.0], [9.0, 0.1]), strict=True):
        note.worth.copy_(torch.tensor(worth))
    return controller, dict(net.named_parameters())


@pytest.mark.parametrize(
    ("limit", "gone", "macs"),
    [(0.6, (1, 0), 1092), (0.4, (1, 2), 708), (0.001, (1, 3), 516)],
)
def test_a_choice_leaves_a_path(limit, gone, macs, example):
    """No path meets no target: filters of the second convolution go on in the place of the channel."""
    controller, parameters = chained(limit, example)
    chosen = controller.choose(parameters, 0)
    assert tuple(int(mask.sum()) for mask in chosen) == (*gone, 0)
    assert controller.budget.left(parameters, chosen)["macs"] == pytest.approx(macs / 1992)


@pytest.mark.parametrize(("limit", "gone"), [(0.6, (1, 0, 0)), (0.2, (1, 3, 0))])
def test_what_is_slated_leaves_a_path_and_is_all_that_must_go(limit, gone, example):
    controller, parameters = chained(limit, example)
    controller.budget.refresh(parameters, controller._dead(parameters), 0.0)
    controller._slate(parameters, {"macs": limit})
    slated = [note.slated for note in controller.notes]
    assert tuple(int(mask.sum()) for mask in slated) == gone
    assert controller.budget.left(parameters, slated)["macs"] > 0


@pytest.mark.parametrize(("channels", "saved"), [(range(2, 8), 900), (range(1, 8), 0)])
def test_what_takes_every_path_saves_nothing(channels, saved, example):
    """The first quarter of 8 filters: both that are still read, and then half of it; or the only one."""
    net = Chain(8)
    _, budget = counted(net, example)
    gone = [torch.zeros(entry.count, dtype=torch.bool) for entry in budget.sets]
    gone[2][list(channels)] = True
    budget.refresh(dict(net.named_parameters()), gone, 0.0)
    assert budget.costs["macs"][0] == pytest.approx(saved / 7392)


def test_gradients_that_overflowed_leave_the_worth_of_all_sets_as_it_was(example):
    """Of those that saw the step and those that did not the worth would not compare."""
    controller, parameters = chained(0.6, example)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    before = [note.worth.clone() for note in controller.notes]
    for value, changes in ((math.inf, False), (math.nan, False), (1.0, True)):
        parameters["2.weight"].grad[1, 0, 0, 0] = value
        controller.look(parameters)
        changed = [(note.worth != worth).any() for note, worth in zip(controller.notes, before, strict=True)]
        assert list(map(bool, changed)) == [changes] * 3


def test_each_of_many_groups_without_which_no_path_is_left_stays():
    """Filter and channel of least worth at every place between the convolutions would take its last path."""
    net = nn.Sequential(*[nn.Conv2d(4, 4, 1, bias=False) for _ in range(14)], nn.Flatten())
    structure = analyse(normalise(trace(net, (torch.randn(2, 4, 3, 3),))))
    weighted = [
        WeightedSet(found, 1.0) for kind in ("filter", "channel") for found in find_groups(structure, kind)
    ]
    budget = Budget([entry.group_set for entry in weighted], watcher(structure))
    controller = TargetController(weighted, Target({"macs": 0.09}, None, 1.0), budget, 60)
    for note, entry in zip(controller.notes, weighted, strict=True):
        filters = entry.group_set.structure == "filter"
        note.worth.copy_(torch.tensor([1.0, 2.0, 3.0, 9.0] if filters else [8.0, 7.0, 6.0, 0.1]))
    parameters = dict(net.named_parameters())
    assert 0 < budget.left(parameters, controller.choose(parameters, 0))["macs"] <= 0.09  # 20 of 224


def test_sets_that_stay_whole_are_not_measured(trained, data, example, monkeypatch):
    module = importlib.import_module("sslcli.targeting.train")
    seen = []

    def probe(model, source, sets, share, **_):
        seen.extend(found.label for found in sets)
        return [None for _ in sets]

    monkeypatch.setattr(module, "probe", probe)
    chosen = options(epochs=1, target={"params": 0.9}, sensitivity_start=True)
    structures = {"filter": {"*": 1.0, "conv1": 0.0}}
    regularize(trained, example, data, structures=structures, options=chosen, batch_size=16)
    assert len(seen) == 1
    assert seen != ["conv1"]


def test_dead_columns_count_as_packed(trained, data, example):
    """Columns change nothing in the graph as executed, so a target over them is in live rows x columns."""
    result = regularize(
        trained, example, data, structures={"shape": 1.0}, batch_size=16,
        options=options(target={"macs": 0.6}, max_drop=10.0),
    )  # fmt: skip
    report = prune(result.model, example, threshold=0.0).report
    assert set(result.reached) == {"macs_packed", "drop"}
    assert result.reached["macs_packed"] == pytest.approx(report.macs_packed / report.macs_before)
    assert 0.45 < result.reached["macs_packed"] <= 0.6
    assert sum(result.zero_groups["shape"].values()) > 10


def test_groups_die_before_the_last_choice(trained, data, example, tmp_path):
    """The strengths do the work: at the end of the penalised phase the target is all but met."""
    result = regularize(
        trained, example, data, options=options(target={"macs": 0.5}), batch_size=16,
        observers=[MetricsFile(tmp_path / "metrics.jsonl")],
    )  # fmt: skip
    sparse = [record for record in result.fit.history if record["phase"] == "sparse"]
    assert sparse[-1]["left"]["macs"] < 0.6
    assert sparse[0]["left"]["macs"] == 1.0
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    strengths = [record["strengths"] for record in records if record["kind"] == "control"]
    assert len(strengths) >= 5
    assert any(value > 0 for each in strengths for value in each.values())


def test_sets_of_strength_zero_are_left_whole(trained, data, example):
    result = regularize(
        trained, example, data, structures={"filter": {"*": 1.0, "conv1": 0.0}},
        options=options(target={"params": 0.7}), batch_size=16,
    )  # fmt: skip
    assert "conv1" not in result.zero_groups["filter"]
    assert result.model.conv1.weight.flatten(1).any(1).all()


def test_a_fallen_metric_slows_the_pace_and_holds_the_strengths(trained, example):
    """5 points down where 1 may be lost: 0.3 of the pace, fewer groups slated, none pressed harder."""
    structure = analyse(normalise(trace(trained, example)))
    weighted = [WeightedSet(found, 1.0) for found in find_groups(structure, "filter")]
    parameters, limits, slated, clocks = dict(trained.named_parameters()), {}, {}, {}
    for name, accuracy in (("well", 0.9), ("fallen", 0.85)):
        budget = Budget([entry.group_set for entry in weighted], watcher(structure))
        controller = TargetController(weighted, Target({"macs": 0.3}, 1.0, 0.9), budget, 60)
        for note in controller.notes:
            note.worth.copy_(torch.linspace(1.0, 2.0, len(note.worth)))
        signs = [Signs(60, 0.2, 0.1, parameters), Signs(90, 0.35, 0.1, parameters, {"accuracy": accuracy})]
        for each in signs:
            controller.adjust(each)
            limits.setdefault(name, []).append(torch.cat([note.limits for note in controller.notes]))
        clocks[name] = controller.clock
        slated[name] = sum(int(note.slated.sum()) for note in controller.notes)
    assert clocks == pytest.approx({"well": 0.35, "fallen": 0.2 + 0.3 * 0.15})
    assert slated["fallen"] < slated["well"]
    before, after = limits["fallen"]
    both = (before > 0) & (after > 0)
    assert bool(both.any())
    assert torch.equal(after[both], before[both])
    before, after = limits["well"]
    both = (before > 0) & (after > 0)
    assert torch.allclose(after[both], 1.25 * before[both])


def test_all_that_must_go_is_slated_in_time_however_low_the_metric(trained, example):
    """A high learning rate alone can keep it low; what is not on its way by the end goes at once."""
    structure = analyse(normalise(trace(trained, example)))
    weighted = [WeightedSet(found, 1.0) for found in find_groups(structure, "filter")]
    parameters = dict(trained.named_parameters())
    budget = Budget([entry.group_set for entry in weighted], watcher(structure))
    controller = TargetController(weighted, Target({"macs": 0.3}, 1.0, 0.9), budget, 60)
    for note in controller.notes:
        note.worth.copy_(torch.linspace(1.0, 2.0, len(note.worth)))
    for step in range(1, 91):
        controller.adjust(Signs(60 * step, step / 100, 0.1, parameters, {"accuracy": 0.5}))
    assert controller.clock == pytest.approx(0.6)
    assert budget.left(parameters, [note.slated for note in controller.notes])["macs"] < 0.35


def test_an_unreachable_target_keeps_the_nearest(trained, data, example):
    with pytest.raises(TargetMissedError, match=r"macs is 0\.0.* and may be 0\.001") as raised:
        regularize(
            trained, example, data, batch_size=16,
            options=options(epochs=3, finetune_epochs=1, target={"macs": 0.001}, max_drop=0.0),
        )  # fmt: skip
    assert raised.value.exit_code == 5
    nearest = raised.value.nearest
    assert nearest.reached["macs"] < 0.1
    inputs, _ = data.test.batch(torch.arange(4))
    assert torch.isfinite(nearest.model(inputs)).all()


def told(change):
    """``measure`` with what ``change`` makes of the number of the call, for ``monkeypatch``."""
    calls = []

    def measured(*arguments, **values):
        found = measure(*arguments, **values)
        calls.append(found.metrics)
        return replace(found, metrics={**found.metrics, **change(len(calls))})

    return measured


@pytest.mark.parametrize("structures", [{"filter": 1.0}, {"filter": 1.0, "shape": 1.0}])
def test_an_unreachable_target_keeps_the_best_epoch(structures, trained, data, example, monkeypatch):
    """The first after the choice, since nothing further can go later."""
    monkeypatch.setattr("sslcli.training.run.measure", told(lambda call: {"accuracy": 1 / call}))
    chosen = options(epochs=3, finetune_epochs=4, target={"macs": 0.001})
    with pytest.raises(TargetMissedError) as raised:
        regularize(trained, example, data, structures=structures, options=chosen, batch_size=16)
    assert raised.value.nearest.fit.kept_epoch == 4


@pytest.mark.parametrize("epochs", [2, 3])
def test_an_epoch_that_meets_the_target_is_kept_before_a_better_one(
    epochs, trained, data, example, monkeypatch
):
    """The first of the fine-tuning lacks, though nothing further can go, and the second does not."""
    monkeypatch.setattr("sslcli.training.run.measure", told(lambda call: {"accuracy": 1 / call}))
    lacking = iter([True])
    monkeypatch.setattr(TargetController, "lacks", lambda *_: next(lacking, False))
    chosen = options(epochs=3, finetune_epochs=epochs, target={"macs": 0.001})
    with pytest.raises(TargetMissedError) as raised:
        regularize(trained, example, data, options=chosen, batch_size=16)
    assert raised.value.nearest.fit.kept_epoch == 5


@pytest.mark.parametrize(("call", "kept"), [(2, 1), (3, 2), (6, 5), (7, 5)])
def test_a_divergence_under_a_target_keeps_the_nearest(call, kept, trained, data, example, monkeypatch):
    """In the fine-tuning, from epoch 4 on, the best of its epochs, and else the last."""
    states: list[dict[str, torch.Tensor]] = []

    def broken(number):
        return {"loss": math.nan if number == call else 0.5, "accuracy": 0.9 if number == 5 else 0.5}

    changed = told(broken)

    def measured(model, *arguments, **values):
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return changed(model, *arguments, **values)

    monkeypatch.setattr("sslcli.training.run.measure", measured)
    chosen = options(epochs=3, finetune_epochs=4, target={"macs": 0.5}, max_drop=100.0, finetune_lr=0.01)
    rate = "--lr (0.02)" if call <= 3 else "--finetune-lr (0.01)"
    with pytest.raises(TargetMissedError, match="the loss was nan") as raised:
        regularize(trained, example, data, options=chosen, batch_size=16)
    what = f"at step {6 * call}, with {rate}, the loss was nan, so the weights of epoch {kept} are kept"
    assert raised.value.what.endswith(what)
    assert raised.value.hint == f"lower {rate}"
    nearest = raised.value.nearest
    assert nearest.fit.kept_epoch == kept
    assert same(nearest.model.state_dict(), states[kept - 1])
    if kept > 3:
        assert raised.value.what.startswith("training did not come to its end: at step")
        assert nearest.reached["macs"] <= 0.5


def test_a_divergence_before_the_first_epoch_ends_leaves_nothing(trained, data, example, monkeypatch):
    monkeypatch.setattr("sslcli.training.run.measure", told(lambda call: {"loss": math.nan}))
    with pytest.raises(TargetError, match="training diverged: the loss is nan at step 6") as raised:
        regularize(trained, example, data, options=options(epochs=3, target={"macs": 0.5}), batch_size=16)
    assert not isinstance(raised.value, TargetMissedError)
    assert raised.value.hint == "lower --lr (0.02)"


@pytest.mark.parametrize("sensitivity", [False, True])
def test_a_target_can_continue_to_the_same_bits(sensitivity, trained, data, example, tmp_path, monkeypatch):
    aside = []

    def write_and_copy(path, state):
        write_state(path, state)
        aside.append(shutil.copy(path, tmp_path / f"state{len(aside)}"))

    monkeypatch.setattr("sslcli.training.keeper.write_state", write_and_copy)
    chosen = options(
        epochs=12, finetune_epochs=1, target={"macs": 0.5}, save_every_steps=7, sensitivity_start=sensitivity
    )
    whole = regularize(trained, example, data, options=chosen, batch_size=16, state_path=tmp_path / "state")
    monkeypatch.undo()
    for number in (5, len(aside) // 2, len(aside) - 2):
        again = regularize(
            trained, example, data, options=chosen, batch_size=16, state_path=tmp_path / f"state{number}"
        )
        assert again.fit.resumed_step > 0
        assert same(again.model.state_dict(), whole.model.state_dict())


def test_a_limit_on_the_drop_needs_a_target(trained, data, example):
    with pytest.raises(UsageError, match="without a target"):
        regularize(trained, example, data, structures={"filter": 1.0}, options=options(max_drop=1.0))
    with pytest.raises(UsageError, match="--sensitivity-start without a target"):
        regularize(
            trained, example, data, structures={"filter": 1.0}, options=options(sensitivity_start=True)
        )


@pytest.mark.parametrize(
    ("rises", "factors"),
    [
        ((0.1, 0.1), (1, 1)),
        ((0.4, 0.1), (2, 0.5)),
        ((64.0, 0.01), (4, 0.25)),  # within a factor of four
        ((0.4, -0.1), (1, 0.25)),  # what falls cannot be in the mean
        ((0.0, 0.0), (1, 1)),
        ((0.4, None), (1, 1)),
        ((0.4, math.inf), (1, 4)),
        ((-0.1, math.inf), (0.25, 4)),
    ],
)
def test_what_was_measured_weighs_whole_sets(rises, factors):
    notes = [
        Group(worth, torch.zeros(4, dtype=torch.bool), torch.zeros(4))
        for worth in (torch.tensor([1.0, 1.0, 3.0, 9.0]), torch.tensor([0.5, 9.0, 9.0, 1.5]))
    ]
    gone = [torch.tensor([True, True, False, False]), torch.tensor([True, False, False, True])]
    probes = [None if rise is None else Probe(mask, rise) for mask, rise in zip(gone, rises, strict=True)]
    assert weighed(notes, probes) == pytest.approx(factors)


def test_a_measured_set_is_let_go_for_another(trained, data, example, monkeypatch):
    """Were it not for what was measured, filters of both sets would go."""
    module = importlib.import_module("sslcli.targeting.train")
    left = {}
    for first, second in ((1e-6, 1.0), (1.0, 1e-6)):

        def probe(model, source, sets, share, rises=(first, second), **_):
            masks = [torch.arange(found.count) < found.count // 4 for found in sets]
            return [Probe(mask, rise) for mask, rise in zip(masks, rises, strict=True)]

        monkeypatch.setattr(module, "probe", probe)
        chosen = options(epochs=8, target={"macs": 0.6}, sensitivity_start=True)
        result = regularize(trained, example, data, options=chosen, batch_size=16)
        left[first] = [int(value) for value in (result.model.conv1.weight.flatten(1) != 0).any(1)]
    assert sum(left[1e-6]) < sum(left[1.0])


@pytest.mark.parametrize(("sound", "kept"), [(0, "before training"), (2, "of epoch 2")])
def test_a_collapse_under_the_target_keeps_the_last_sound_epoch(
    sound, kept, trained, data, example, monkeypatch
):
    seen = []

    def constant_from(*arguments, **values):
        found = measure(*arguments, **values)
        seen.append(found.metrics)
        return replace(found, constant=len(seen) > sound)

    monkeypatch.setattr("sslcli.training.run.measure", constant_from)
    chosen = options(epochs=3, finetune_epochs=1, target={"macs": 0.001}, max_drop=0.0)
    with pytest.raises(TargetMissedError, match=r"macs is [01]\.\d+ and may be 0\.001") as raised:
        regularize(trained, example, data, options=chosen, batch_size=16)
    assert f"after step {6 * sound + 6} the output was the same for every input" in str(raised.value)
    assert f"so the weights {kept} are kept" in str(raised.value)
    nearest = raised.value.nearest
    expected = evaluate(trained, None, data.validation) if sound == 0 else seen[sound - 1]
    assert nearest.metrics == evaluate(nearest.model, None, data.validation) == expected
    assert nearest.reached["macs"] == nearest.fit.left["macs"]
