from __future__ import annotations

import gc
import time
from dataclasses import replace

import numpy as np
import pytest

from sslcli.bench.inputs import RunSettings
from sslcli.bench.runner import Clock, Subject, interleave, sample_clock, time_models
from sslcli.bench.sessions import bind


class FakeMachine:
    """A clock that only work moves; it writes down who worked."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[str] = []

    def clock(self) -> int:
        return self.now

    @property
    def clocks(self) -> tuple[Clock, Clock]:
        """For samples and for the budget."""
        return self.clock, self.clock

    def subject(self, name: str, cost_ns: int) -> Subject:
        def run() -> None:
            self.now += cost_ns
            self.log.append(name)

        return Subject(run)


def runs_of(log: list[str]) -> list[str]:
    """The log with repetitions joined: who was measured after whom."""
    return [name for index, name in enumerate(log) if index == 0 or log[index - 1] != name]


def test_subjects_alternate_and_each_order_is_followed_by_its_reverse():
    machine = FakeMachine()
    subjects = [machine.subject(name, 3_000_000) for name in "abc"]
    settings = RunSettings(warmup=0, budget_s=0, min_blocks=6, max_blocks=6)
    taken = interleave(subjects, settings, *machine.clocks)
    measured = "".join(machine.log[9:])  # three runs of each find out what a run costs
    visits = measured[::2]  # one untimed and one timed run a visit
    blocks = [visits[i : i + 3] for i in range(0, len(visits), 3)]
    assert measured[1::2] == visits
    assert [sorted(block) for block in blocks] == [["a", "b", "c"]] * 6
    assert blocks[1] == blocks[0][::-1]
    assert blocks[3] == blocks[2][::-1]
    assert len(set(blocks)) > 2
    assert [samples.ns.shape for samples in taken] == [(6, 1)] * 3


def test_samples_are_nanoseconds_per_run_and_short_runs_are_repeated():
    machine = FakeMachine()
    subjects = [machine.subject("fast", 1000), machine.subject("slow", 500_000)]
    fast, slow = interleave(subjects, RunSettings(budget_s=0.0, min_blocks=4), *machine.clocks)
    assert fast.runs_per_sample == 200
    assert slow.runs_per_sample == 1
    assert np.all(fast.ns == 1000)
    assert np.all(slow.ns == 500_000)
    assert fast.ns.shape == slow.ns.shape


def test_drift_meets_all_alike():
    machine = FakeMachine()

    def slowing(name: str) -> Subject:
        def run() -> None:
            machine.now += 300_000 + machine.now // 50

        return Subject(run)

    one, two = interleave(
        [slowing("a"), slowing("b")], RunSettings(budget_s=0, min_blocks=40), *machine.clocks
    )
    growth = one.ns[-1].mean() / one.ns[0].mean()
    assert growth > 3
    assert np.median(one.ns.mean(1) / two.ns.mean(1)) == pytest.approx(1.0, abs=0.1)


def test_budget_ends_the_measurement_but_not_before_the_fewest_blocks():
    machine = FakeMachine()
    subject = machine.subject("a", 100_000_000)
    (samples,) = interleave([subject], RunSettings(warmup=2, budget_s=3.0, min_blocks=2), *machine.clocks)
    assert len(samples.ns) == 26  # 5 runs go before the first block
    (samples,) = interleave([subject], RunSettings(budget_s=0.0, min_blocks=7), *machine.clocks)
    assert len(samples.ns) == 7
    (samples,) = interleave([subject], RunSettings(budget_s=100.0, max_blocks=11), *machine.clocks)
    assert len(samples.ns) == 11


def test_one_cpu_thread_is_timed_by_its_own_cpu_time():
    assert sample_clock(RunSettings(threads=1)) == "cpu"
    assert sample_clock(RunSettings(threads=2)) == "wall"
    assert sample_clock(RunSettings(provider="cuda")) == "wall"
    asleep = Subject(lambda: time.sleep(0.01))
    settings = RunSettings(warmup=0, budget_s=0, min_blocks=1)
    (by_cpu,) = interleave([asleep], settings)
    (by_wall,) = interleave([asleep], replace(settings, threads=2))
    assert by_cpu.ns.max() < 5e6
    assert by_wall.ns.min() >= 1e7


def test_collector_is_put_back_as_it_was():
    machine = FakeMachine()
    seen: list[bool] = []

    def run() -> None:
        machine.now += 10**9
        seen.append(gc.isenabled())

    interleave([Subject(run)], RunSettings(warmup=0, budget_s=0, min_blocks=1), *machine.clocks)
    assert gc.isenabled()
    assert seen[-1] is False
    gc.disable()
    try:
        interleave([Subject(run)], RunSettings(warmup=0, budget_s=0, min_blocks=1), *machine.clocks)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_models_are_timed_with_every_node_on_the_provider(network):
    settings = RunSettings(batch_size=2, budget_s=0.0, min_blocks=2, warmup=1)
    timings = time_models([network, network], settings)
    assert [set(timing.nodes) for timing in timings] == [{"CPUExecutionProvider"}] * 2
    assert [len(timing.samples.ns) for timing in timings] == [2, 2]
    assert all(np.all(timing.samples.ns > 0) for timing in timings)


def test_bound_model_computes_the_model_and_gets_equal_inputs_for_equal_seeds(network):
    one, two, three = (bind(network, RunSettings(batch_size=2, seed=seed)) for seed in (0, 0, 1))
    for model in (one, two, three):
        model.run()
    np.testing.assert_array_equal(one.outputs()[0], two.outputs()[0])
    assert not np.array_equal(one.outputs()[0], three.outputs()[0])
    x = np.zeros((2, 3, 8, 8), np.float32)
    given = bind(network, RunSettings(batch_size=2), {"x": x})
    given.run()
    assert given.outputs()[0].shape == (2, 5)


def test_threads_reach_the_session(network):
    model = bind(network, RunSettings(threads=2))
    options = model._session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
