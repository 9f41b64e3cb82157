import copy
import signal

import pytest
import torch
from torch import nn

from sslcli.errors import Interrupted
from sslcli.graph.normalise import normalise
from sslcli.graph.slots import analyse
from sslcli.graph.trace import trace
from sslcli.options.training import RegularizeOptions
from sslcli.targeting import latency as module
from sslcli.targeting import regularize
from sslcli.targeting.latency import Latency, LatencyTable, LayerTimes
from sslcli.targeting.left import watcher

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
    table = LatencyTable({"conv": TIMES}, 8.0)
    assert table.rest_ms == 2
    assert LatencyTable.from_json(table.to_json()) == table


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

    def measure(self, weights):
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
    monkeypatch.setattr(Latency, "measure", lambda self, weights: watch(weights)["macs"])
    options = RegularizeOptions(epochs=4, lr=0.03, finetune_epochs=1, target={"latency": 0.7})
    values = {"options": options, "batch_size": 16, "state_path": tmp_path / "state"}
    with pytest.raises(Interrupted):
        regularize(trained, example, data, observers=[stop], **values)
    assert len(calls) == 1
    assert regularize(trained, example, data, **values).fit.resumed_step == 12
    assert len(calls) == 1
    regularize(trained, example, data, options=options, batch_size=16)
    assert len(calls) == 2


def test_what_is_measured_has_the_statistics_of_norms_as_training_left_them(monkeypatch):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
    live, seen = copy.deepcopy(net), []
    with torch.no_grad():
        live[1].running_mean += 1.0
        live[0].weight[0] = 0
    monkeypatch.setattr(Latency, "exported", None)
    monkeypatch.setattr(module, "measured", lambda exported, small, example: seen.append(small) or 0.5)
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
