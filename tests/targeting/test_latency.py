import copy
import signal
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from sslcli.errors import Interrupted
from sslcli.graph.normalise import normalise
from sslcli.graph.readers import readers
from sslcli.graph.slots import analyse
from sslcli.graph.trace import trace
from sslcli.options.training import RegularizeOptions
from sslcli.sparsity.zeros import zero_masks
from sslcli.targeting import latency as module
from sslcli.targeting import regularize
from sslcli.targeting.budget import Budget, agreeing, corrected
from sslcli.targeting.bundles import Bundler
from sslcli.targeting.controller import TargetController
from sslcli.targeting.groups import weighted_sets
from sslcli.targeting.latency import Latency, LatencyTable, LayerTimes, least_at, widths
from sslcli.targeting.left import watcher
from sslcli.targeting.target import Target

TIMES = LayerTimes((2, 4), (1, 3), ((1.0, 2.0), (3.0, 6.0)), ((0.5, 0.25), (1.0, 1.0)))


def test_times_are_linear_between_what_was_measured():
    assert TIMES.at(4, 3) == 6
    assert TIMES.at(2, 2) == 1.5
    assert TIMES.at(3, 3) == 4
    assert TIMES.at(1, 1) == 1  # below the least width nothing more is promised
    assert TIMES.at(0, 3) == 0
    assert TIMES.lowering(0.75) == 0.625
    assert TIMES.lowering(0.1) == 0.25


def test_a_table_survives_json():
    table = LatencyTable({"conv": TIMES}, 8.0, 0.5)
    assert LatencyTable.from_json(table.to_json()) == table


@pytest.mark.parametrize(
    ("size", "block", "expected"),
    [
        (50, None, (5, 12, 25, 38, 50)),
        (50, 16, (5, 12, 16, 17, 32, 33, 48, 49, 50)),  # 48 of 50 channels take half as long
        (20, 16, (2, 5, 10, 15, 16, 17, 20)),
        (32, 16, (3, 8, 16, 17, 32)),
        (64, 16, (6, 16, 17, 32, 33, 48, 49, 64)),
        (100, 16, (10, 16, 17, 48, 49, 75, 100)),  # of more than four blocks one makes little difference
        (512, 16, (48, 49, 128, 256, 384, 512)),
        (1, 16, (1,)),
    ],
)
def test_whole_blocks_of_channels_are_timed(size, block, expected):
    assert widths(size, block) == expected


def test_a_layer_takes_no_longer_than_a_wider_one_since_zeros_can_be_added():
    ms = np.array([[2.0, 3.0, 2.5], [4.0, 1.0, 5.0], [3.0, 6.0, 6.0]])
    assert least_at(ms) == ((1.0, 1.0, 2.5), (1.0, 1.0, 5.0), (3.0, 6.0, 6.0))


def test_an_estimate_is_right_for_the_whole_network_and_where_it_was_measured():
    assert corrected(1.0, [(0.5, 0.3)]) == 1.0
    assert corrected(0.5, [(0.5, 0.3)]) == pytest.approx(0.3)
    assert corrected(0.75, [(0.5, 0.3)]) == pytest.approx(0.65)
    assert corrected(0.25, [(0.5, 0.3)]) == pytest.approx(0.15)
    assert corrected(0.7, [(0.5, 0.3), (0.8, 0.6)]) == pytest.approx(0.5)
    assert corrected(0.9, [(0.5, 0.3), (0.8, 0.6)]) == pytest.approx(0.8)


@pytest.mark.parametrize("measured", [0.97, 1.0, 1.01])
def test_where_little_was_saved_the_course_is_not_flat(measured):
    """Between there and the whole network nothing would be saved by any group."""
    assert corrected(1.0, [(0.8, measured)]) == pytest.approx(measured / 0.8)
    assert corrected(0.9, [(0.8, measured)]) == pytest.approx(0.9 * measured / 0.8)


def test_a_measurement_next_to_the_whole_network_gives_no_course():
    assert corrected(1.0, [(0.985, 0.9)]) == pytest.approx(0.9 / 0.985)


def test_old_measurements_stay_where_they_agree_with_the_new_one():
    assert agreeing([(0.5, 0.3), (0.8, 0.7)], (0.65, 0.4)) == [(0.5, 0.3), (0.65, 0.4), (0.8, 0.7)]
    assert agreeing([(0.5, 0.3)], (0.51, 0.4)) == [(0.51, 0.4)]  # the same place
    assert agreeing([(0.5, 0.45), (0.8, 0.7)], (0.65, 0.4)) == [(0.65, 0.4), (0.8, 0.7)]  # falling
    assert agreeing([(0.8, 0.41)], (0.65, 0.4)) == [(0.65, 0.4)]  # flat


def proportional(shapes):
    """A table in which a layer costs a millisecond a MAC; nothing else costs anything."""
    layers = {
        name: LayerTimes(
            tuple(range(1, n + 1)),
            tuple(range(1, c + 1)),
            tuple(tuple(float(i * j * area) for j in range(1, c + 1)) for i in range(1, n + 1)),
            ((0.01, 0.01), (1.0, 1.0)),
        )
        for name, (n, c, area) in shapes.items()
    }
    return LatencyTable(layers, sum(times.ms[-1][-1] for times in layers.values()))


@pytest.fixture
def table(monkeypatch):
    made = proportional(
        {"conv1": (12, 1, 9 * 36), "conv2": (12, 12, 9 * 16), "branch": (12, 12, 9 * 16), "fc": (3, 192, 1)}
    )
    monkeypatch.setattr(module, "measure_table", lambda *_, **__: made)
    return made


def test_where_time_is_macs_the_estimate_is_the_packed_fraction(net, example, table):
    structure = analyse(normalise(trace(net, example)))
    watch = watcher(structure, Latency(net, example, structure, columns=True).estimate)
    with torch.no_grad():
        net.conv1.weight[:6] = 0
        net.conv1.bias[:6] = 0
        net.branch.weight[:, :, 0] = 0
    left = watch(dict(net.named_parameters()))
    assert left["latency"] == pytest.approx(left["macs_packed"], rel=1e-6)
    assert left["latency"] < left["macs"] < 1


@pytest.mark.parametrize("slower", [1.0, 1.6])
def test_a_latency_target_is_met_by_what_is_measured(monkeypatch, trained, data, example, table, slower):
    """The host is slower on small models than the table says; the choice is corrected by measurement."""
    structure = analyse(normalise(trace(trained, example)))
    watch = watcher(structure)

    def measure(self, weights, last=False):
        return min(1.0, slower * watch(weights)["macs"])

    monkeypatch.setattr(Latency, "measure", measure)
    options = RegularizeOptions(epochs=8, lr=0.03, finetune_epochs=4, target={"latency": 0.6})
    result = regularize(trained, example, data, structures={"filter": 1.0}, options=options, batch_size=16)
    assert result.reached["latency"] <= 0.6 * 1.03
    assert result.reached["latency"] == pytest.approx(min(1.0, slower * result.fit.left["macs"]))
    assert result.reached["latency"] > 0.3
    assert result.fit.left["latency"] == result.reached["latency"]  # what is shown is what was judged


def test_a_continued_run_does_not_measure_the_table_again(
    monkeypatch, trained, data, example, table, tmp_path
):
    calls, watch = [], watcher(analyse(normalise(trace(trained, example))))

    def measure_table(*_arguments, **_values):
        calls.append(True)
        return table

    def stop(progress):
        if progress.kind == "epoch" and progress.epoch == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(module, "measure_table", measure_table)
    monkeypatch.setattr(Latency, "measure", lambda self, weights, last=False: watch(weights)["macs"])
    options = RegularizeOptions(epochs=4, lr=0.03, finetune_epochs=1, target={"latency": 0.7})
    values = {"options": options, "batch_size": 16, "state_path": tmp_path / "state"}
    with pytest.raises(Interrupted):
        regularize(trained, example, data, observers=[stop], **values)
    assert len(calls) == 1
    assert regularize(trained, example, data, **values).fit.resumed_step == 12
    assert len(calls) == 1
    regularize(trained, example, data, options=options, batch_size=16)
    assert len(calls) == 2


def test_before_a_run_estimates_are_corrected_near_the_aim(monkeypatch, net, example, table):
    structure = analyse(normalise(trace(net, example)))
    options = RegularizeOptions(structures={"filter": 1.0}, target={"latency": 0.5})
    penalties = weighted_sets(structure, options.structures, False, options.depth_unit)
    sets = [weighted.group_set for weighted in penalties]
    latency = Latency(net, example, structure)
    watch = watcher(structure, latency.estimate)
    parameters = dict(net.named_parameters())
    seen = []

    def measure(self, weights):
        seen.append(watch(weights)["latency"])
        return 0.6 * seen[-1]

    monkeypatch.setattr(Latency, "measure", measure)
    budget = Budget(sets, watch, latency, aim=0.5)
    none = [torch.zeros(group_set.count, dtype=torch.bool) for group_set in sets]
    budget.refresh(parameters, none, 0.0)
    assert len(seen) == 1
    assert 0.5 - 0.12 < seen[0] <= 0.5  # sets of a dozen filters
    assert budget.left(parameters, none)["latency"] == pytest.approx(1.0)
    half = [torch.arange(group_set.count) >= group_set.count // 2 for group_set in sets]
    assert budget.left(parameters, half)["latency"] < watch(budget._without(parameters, half))["latency"]
    budget.refresh(parameters, none, 0.1)
    assert len(seen) == 1


def test_a_set_keeps_a_group_in_the_cut_near_the_aim(monkeypatch, net, example, table):
    structure = analyse(normalise(trace(net, example)))
    options = RegularizeOptions(structures={"filter": 1.0}, target={"latency": 0.01})
    penalties = weighted_sets(structure, options.structures, False, options.depth_unit)
    watch = watcher(structure, Latency(net, example, structure).estimate)
    seen = []

    def watched(parameters):
        seen.append(int((parameters["conv1.weight"].flatten(1) != 0).any(1).sum()))
        return watch(parameters)

    latency = Latency(net, example, structure)
    monkeypatch.setattr(Latency, "measure", lambda self, weights, last=False: 1 / 0)  # nothing comes near
    budget = Budget([weighted.group_set for weighted in penalties], watched, latency, aim=0.001)
    budget.correct_near_aim(dict(net.named_parameters()))
    assert min(seen) == 1
    assert budget.corrections == {}


@pytest.mark.parametrize("saved", [0.03, 0.005, 0.0, -0.01])
def test_a_step_that_nothing_is_saved_before_is_passed(monkeypatch, trained, data, example, table, saved):
    """The first quarter of the way saves nothing by the clock, as where layers are in whole blocks."""
    watch = watcher(analyse(normalise(trace(trained, example))))

    def measure(self, weights, last=False):
        macs = watch(weights)["macs"]
        return 1 - saved if 0.75 < macs < 1 else macs

    monkeypatch.setattr(Latency, "measure", measure)
    options = RegularizeOptions(epochs=8, lr=0.03, finetune_epochs=4, target={"latency": 0.6})
    result = regularize(trained, example, data, structures={"filter": 1.0}, options=options, batch_size=16)
    assert 0.5 < result.reached["latency"] <= 0.6


class Wide(nn.Sequential):
    """Four convolutions of 32 filters."""

    def __init__(self):
        convolutions = [nn.Conv2d(1 if i == 0 else 32, 32, 3, padding=1) for i in range(4)]
        layers = [layer for convolution in convolutions for layer in (convolution, nn.ReLU())]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))


@pytest.fixture
def wide(example):
    """A network, its structure, filter sets, and latency by MACs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Wide().eval()
    structure = analyse(normalise(trace(net, example)))
    options = RegularizeOptions(structures={"filter": 1.0}, target={"latency": 0.5})
    penalties = weighted_sets(structure, options.structures, False, options.depth_unit)
    latency = Latency(net, example, structure)
    shapes = {"0": (32, 1, 9 * 64), **dict.fromkeys(("2", "4", "6"), (32, 32, 9 * 64)), "9": (3, 32, 1)}
    latency.table = proportional({name: shapes[name] for name in ("0", "2", "4", "6", "9")})
    return SimpleNamespace(net=net, structure=structure, penalties=penalties, latency=latency)


def budget_of(wide, aim, monkeypatch, measure):
    watch = watcher(wide.structure, wide.latency.estimate)
    calls = []

    def measured(weights, last=False):
        calls.append(measure(watch(weights)["latency"], len(calls)))
        return calls[-1]

    monkeypatch.setattr(wide.latency, "measure", measured)
    sets = [weighted.group_set for weighted in wide.penalties]
    return Budget(sets, watch, wide.latency, Bundler(wide.structure, sets), wide.net, (), aim), calls


@pytest.mark.parametrize(
    ("alike", "chosen", "aim"), [(0.6, 1.0, 0.5), (0.7, 1.15, 0.5), (0.45, 1.1, 0.3), (1.6, 0.8, 0.4)]
)
def test_what_was_measured_of_a_cut_alike_does_not_mislead_the_choice(monkeypatch, wide, alike, chosen, aim):
    def measure(estimate, number):
        return (alike if number == 0 else chosen) * estimate

    budget, calls = budget_of(wide, aim, monkeypatch, measure)
    controller = TargetController(wide.penalties, Target({"latency": aim}, None, 0.0), budget, 600)
    generator = torch.Generator().manual_seed(1)
    for number, note in enumerate(controller.notes):
        note.worth = torch.rand(len(note.worth), generator=generator) * (1 + number)
    parameters = dict(wide.net.named_parameters())
    budget.refresh(parameters, [torch.zeros(len(n.worth), dtype=torch.bool) for n in controller.notes], 0.0)
    gone = controller.choose(parameters, 600)
    left = watcher(wide.structure, wide.latency.estimate)(budget._without(parameters, gone))["latency"]
    assert 0.6 * aim < chosen * left <= aim  # too much went at the first try of the last: 0.55
    assert len(calls) <= 5


@pytest.mark.parametrize(("faster", "tries"), [(1.0, 1), (0.95, 1), (0.5, 2)])
def test_what_the_estimate_said_is_not_chosen_and_measured_again(monkeypatch, wide, faster, tries):
    """A layer takes a quarter of the time with 16 of 32 filters and no less with 17: nothing lies between."""
    stairs = LayerTimes((1, 16, 17, 32), (1, 32), ((0.25, 0.25), (0.25, 0.25), (1.0, 1.0), (1.0, 1.0)))
    wide.latency.table = LatencyTable(dict.fromkeys(("0", "2", "4", "6"), stairs), 4.0)
    budget, calls = budget_of(wide, None, monkeypatch, lambda estimate, _: faster * estimate)
    controller = TargetController(wide.penalties, Target({"latency": 0.8}, None, 0.0), budget, 600)
    for number, note in enumerate(controller.notes):
        note.worth = torch.arange(len(note.worth)) + 1.0 + 100 * number
    parameters = dict(wide.net.named_parameters())
    gone = controller.choose(parameters, 600)
    assert len(calls) == tries
    assert sum(int(mask.sum()) >= 16 for mask in gone) == (2 if faster > 0.9 else 1)


@pytest.mark.parametrize(("measured", "aim"), [(0.9, 0.1), (0.3, 0.01), (0.02, 0.4)])
def test_no_choice_is_measured_twice(monkeypatch, wide, measured, aim):
    estimates = []
    budget, _ = budget_of(wide, None, monkeypatch, lambda estimate, _: estimates.append(estimate) or measured)
    controller = TargetController(wide.penalties, Target({"latency": aim}, None, 0.0), budget, 600)
    for number, note in enumerate(controller.notes):
        note.worth = torch.arange(len(note.worth)) + 1.0 + number
    controller.choose(dict(wide.net.named_parameters()), 600)
    assert len(set(estimates)) == len(estimates)


@pytest.mark.parametrize("aim", [0.3, 0.05, 0.001])
def test_where_a_latency_cannot_be_reached_a_path_is_left(monkeypatch, wide, aim):
    """Filters and the channels that read them can take every path together."""
    options = RegularizeOptions(structures={"filter": 1.0, "channel": 1.0}, target={"latency": 0.5})
    wide.penalties = weighted_sets(wide.structure, options.structures, False, options.depth_unit)
    budget, calls = budget_of(wide, None, monkeypatch, lambda estimate, _: max(0.3 * estimate, 0.1))
    controller = TargetController(wide.penalties, Target({"latency": aim}, None, 0.0), budget, 600)
    generator = torch.Generator().manual_seed(1)
    for number, note in enumerate(controller.notes):
        note.worth = torch.rand(len(note.worth), generator=generator) * (1 + number)
    parameters = dict(wide.net.named_parameters())
    gone = controller.choose(parameters, 600)
    assert calls
    assert budget.watch(budget._without(parameters, gone))["latency"] > 0


def test_what_has_no_path_is_not_measured(monkeypatch, wide):
    budget, calls = budget_of(wide, None, monkeypatch, lambda estimate, _: estimate)
    gone = [torch.ones(weighted.group_set.count, dtype=torch.bool) for weighted in wide.penalties]
    with torch.no_grad():
        for each in wide.net:
            if getattr(each, "bias", None) is not None:
                each.bias.zero_()
    assert budget.correct(dict(wide.net.named_parameters()), gone) == {}
    assert not calls


def test_a_later_choice_prices_what_is_there_then_as_a_continued_run_does(monkeypatch, wide):
    budget, _ = budget_of(wide, 0.5, monkeypatch, lambda estimate, _: estimate)
    target = Target({"latency": 0.5}, None, 0.0)
    first = TargetController(wide.penalties, target, budget, 600)
    for number, note in enumerate(first.notes):
        note.worth = torch.arange(len(note.worth)) + 1.0 + number
    parameters = dict(wide.net.named_parameters())
    chosen = first.choose(parameters, 600)
    state = copy.deepcopy(first.state())
    with torch.no_grad():
        for name, mask in zero_masks(parameters, budget.sets, chosen).items():
            parameters[name].masked_fill_(mask, 0)
    continued, _ = budget_of(wide, 0.5, monkeypatch, lambda estimate, _: estimate)
    TargetController(wide.penalties, target, continued, 600).restore(state)
    for each in (budget, continued):
        each.refresh(parameters, chosen, 1.0)
    assert budget.costs == continued.costs


def test_the_first_cut_is_of_what_is_alive(monkeypatch, wide):
    with torch.no_grad():
        wide.net[0].weight[4:] = 0
        wide.net[0].bias[4:] = 0
    budget, calls = budget_of(wide, 0.3, monkeypatch, lambda estimate, _: estimate)
    budget.correct_near_aim(dict(wide.net.named_parameters()))
    assert len(calls) == 1
    assert 0.2 < calls[0] <= 0.3


def test_a_first_cut_that_saves_nothing_is_made_deeper(monkeypatch, wide):
    budget, calls = budget_of(
        wide, 0.5, monkeypatch, lambda estimate, _: 1.0 if estimate > 0.42 else estimate
    )
    budget.correct_near_aim(dict(wide.net.named_parameters()))
    assert calls[0] == 1.0
    assert calls[-1] <= 0.5
    assert len(calls) <= 3


def test_a_layer_that_is_used_twice_is_counted_twice_in_the_whole(example):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            x = self.conv(self.conv(self.stem(x)).relu()).relu()
            return self.fc(x.mean((2, 3)))

    net = Twice().eval()
    structure = analyse(normalise(trace(net, example)))
    latency = Latency(net, example, structure)
    layers = proportional({"stem": (4, 1, 9 * 64), "conv": (4, 4, 9 * 64), "fc": (3, 4, 1)}).layers
    latency.table = LatencyTable(layers, 1.0)
    assert watcher(structure, latency.estimate)(dict(net.named_parameters()))["latency"] == pytest.approx(1)


def test_a_call_costs_the_same_however_much_goes(net, example, table):
    structure = analyse(normalise(trace(net, example)))
    latency = Latency(net, example, structure)
    call = table.whole_ms
    latency.table = LatencyTable(table.layers, table.whole_ms + call, call)
    watch = watcher(structure, latency.estimate)
    parameters = dict(net.named_parameters())
    assert watch(parameters)["latency"] == pytest.approx(1.0)
    with torch.no_grad():
        net.conv1.weight[:6] = 0
        net.conv1.bias[:6] = 0
    left = watch(parameters)
    assert left["latency"] == pytest.approx((1 + left["macs"]) / 2)


def test_a_layer_is_timed_without_the_call(monkeypatch, net, example):
    layer = readers(analyse(normalise(trace(net, example))))[0]
    timing = SimpleNamespace(samples=SimpleNamespace(ns=np.array([5000.0])))
    monkeypatch.setattr(module, "narrowed", lambda piece, *_, **__: piece)
    monkeypatch.setattr(module, "time_models", lambda models, settings: [timing] * len(models))
    times = module._layer_times(onnx.ModelProto(), layer, False, 0.003)
    assert (times.filters, times.channels) == ((1, 3, 6, 9, 12), (1,))
    assert times.at(12, 1) == pytest.approx(0.002)


def test_what_a_run_is_judged_by_is_measured_longer(monkeypatch, net):
    seen = []
    monkeypatch.setattr(Latency, "exported", None)
    monkeypatch.setattr(module, "readers", lambda structure: [])
    monkeypatch.setattr(module, "measured", lambda *given: seen.append(given[-1]) or 0.5)
    latency = Latency(net, (), None)
    latency.measure({})
    latency.measure({}, last=True)
    assert seen[0].budget_s < seen[1].budget_s == 1.0


def test_of_two_times_of_the_whole_layer_the_lesser_counts(monkeypatch, net, example):
    layer = readers(analyse(normalise(trace(net, example))))[0]

    def time_models(models, settings):
        us = [*range(1, len(models) - 1), 90, 40]
        return [SimpleNamespace(samples=SimpleNamespace(ns=np.array([1e3 * each]))) for each in us]

    monkeypatch.setattr(module, "narrowed", lambda piece, *_, **__: piece)
    monkeypatch.setattr(module, "time_models", time_models)
    times = module._layer_times(onnx.ModelProto(), layer, False, 0.0)
    assert [row[0] for row in times.ms] == pytest.approx([0.001, 0.002, 0.003, 0.004, 0.04])


@pytest.mark.parametrize(("affordable", "expected"), [(False, 3), (True, 6)])
def test_a_short_run_measures_at_the_start_the_choice_and_the_end_alone(
    monkeypatch, trained, data, example, table, affordable, expected
):
    calls, watch = [], watcher(analyse(normalise(trace(trained, example))))

    def measure(self, weights, last=False):
        calls.append(last)
        return watch(weights)["macs"] / 2

    monkeypatch.setattr(Latency, "measure", measure)
    monkeypatch.setattr(Latency, "affordable", lambda self, position: affordable)
    options = RegularizeOptions(epochs=6, lr=0.03, finetune_epochs=1, target={"latency": 0.7})
    regularize(trained, example, data, options=options, batch_size=16)
    assert calls == [False] * (expected - 1) + [True]


def test_what_may_be_measured_on_the_way_is_a_share_of_the_run(monkeypatch, table):
    now = [0.0]

    def measure(*_arguments, **_values):
        now[0] += 5.0
        return table

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(module, "readers", lambda structure: [])
    monkeypatch.setattr(module, "measure_table", measure)
    monkeypatch.setattr(Latency, "exported", None)
    latency = Latency(nn.Identity(), (), None)
    assert latency.table is table
    now[0] = 100.0  # of 400: 16 s may go, 5 have gone, 5 now, 5 at the choice, 5 at the end
    assert not latency.affordable(0.25)
    now[0] = 130.0
    assert latency.affordable(0.25)
    state = latency.state()
    now[0] += 1000.0  # the run was stopped for so long
    other = Latency(nn.Identity(), (), None)
    other.restore(state)
    assert other.state() == state
    assert other.affordable(0.25)
    assert not other.affordable(0.5)


def test_what_is_measured_has_the_statistics_of_norms_as_training_left_them(monkeypatch):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
    live, seen = copy.deepcopy(net), []
    with torch.no_grad():
        live[1].running_mean += 1.0
        live[0].weight[0] = 0
    monkeypatch.setattr(Latency, "exported", None)
    monkeypatch.setattr(module, "measured", lambda exported, small, *_: seen.append(small) or 0.5)
    monkeypatch.setattr(module, "readers", lambda structure: [])
    latency = Latency(net, (), None, live=live)
    assert latency.measure(dict(live.named_parameters())) == 0.5
    assert torch.equal(seen[0][1].running_mean, torch.ones(4))
    assert not bool(seen[0][0].weight[0].any())
    assert not bool(net[1].running_mean.any())


@pytest.mark.slow
def test_the_table_of_a_real_network_is_measured(net, example):
    structure = analyse(normalise(trace(net, example)))
    latency = Latency(net, example, structure, columns=True)
    assert set(latency.table.layers) == {"conv1", "conv2", "branch", "fc"}
    dense = watcher(structure, latency.estimate)(dict(net.named_parameters()))
    assert dense["latency"] == pytest.approx(1.0)
    with torch.no_grad():
        net.conv1.weight[:9] = 0
        net.conv1.bias[:9] = 0
    assert watcher(structure, latency.estimate)(dict(net.named_parameters()))["latency"] < 1.0
    assert latency.measure(dict(net.named_parameters())) > 0


class Odd(nn.Sequential):
    """A depthwise convolution with two filters a channel, and a transposed one with one."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 20, 3, padding=1), nn.Conv2d(20, 40, 3, padding=1, groups=20),
            nn.ConvTranspose2d(40, 40, 2, stride=2, groups=40), nn.ConvTranspose2d(40, 8, 1, groups=8),
            nn.Conv2d(8, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip


def test_depthwise_layers_are_timed_where_each_filter_reads_a_channel_that_no_other_reads(example):
    latency = Latency(net := Odd().eval(), example, analyse(normalise(trace(net, example))))
    table = latency.table.layers
    assert set(table) == {"0", "2", "4"}
    assert (table["2"].filters, table["2"].channels) == (widths(40, 16), (1,))
