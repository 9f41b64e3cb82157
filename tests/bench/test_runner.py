from __future__ import annotations

import gc
import time

import numpy as np
import pytest

from sslcli.bench.inputs import RunSettings
from sslcli.bench.runner import Clock, Heat, Maker, Subject, sample_clock, time_models, time_subjects
from sslcli.bench.sessions import bind


class FakeMachine:
    """A clock that only work moves; it writes down who was opened and who worked."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[str] = []
        self.opened: list[str] = []

    def clock(self) -> int:
        return self.now

    @property
    def clocks(self) -> tuple[Clock, Clock]:
        """For samples and for the budget."""
        return self.clock, self.clock

    def maker(self, name: str, cost_ns: int) -> Maker:
        def run() -> None:
            self.now += cost_ns
            self.log.append(name)

        def maker() -> Subject:
            self.opened.append(name)
            return Subject(run)

        return maker


def blocks_only(**chosen) -> RunSettings:
    """One round without warm-up and without time: as many blocks as asked for."""
    return RunSettings(**({"warmup": 0, "budget_s": 0.0, "rounds": 1} | chosen))


def test_subjects_alternate_and_each_order_is_followed_by_its_reverse():
    machine = FakeMachine()
    makers = [machine.maker(name, 3_000_000) for name in "abc"]
    taken = time_subjects(makers, blocks_only(min_blocks=6), *machine.clocks)
    measured = "".join(machine.log[9:])  # three runs of each find out what a run costs
    visits = measured[::2]  # one untimed and one timed run a visit
    blocks = [visits[i : i + 3] for i in range(0, len(visits), 3)]
    assert measured[1::2] == visits
    assert [sorted(block) for block in blocks] == [["a", "b", "c"]] * 6
    assert blocks[1] == blocks[0][::-1]
    assert blocks[3] == blocks[2][::-1]
    assert len(set(blocks)) > 2
    assert [timing.samples.ns.shape for timing in taken] == [(6, 1)] * 3


def test_heats_that_take_turns_are_timed_as_if_alone():
    """Each opens its subjects anew in every round, and keeps its own rhythm and blocks."""
    machine = FakeMachine()
    settings = blocks_only(rounds=2, min_blocks=4)
    fast = Heat([machine.maker("a", 3_000_000), machine.maker("b", 6_000_000)], settings, *machine.clocks)
    slow = Heat([machine.maker("c", 60_000_000)], settings, *machine.clocks)
    for number in range(2):
        fast.run(number)
        slow.run(number)
    assert machine.opened == ["a", "b", "c", "b", "a", "c"]
    samples = [timing.samples for timing in (*fast.timings(), *slow.timings())]
    assert [sample.rounds for sample in samples] == [(2, 2)] * 3
    assert [float(np.median(sample.ns)) for sample in samples] == [3e6, 6e6, 6e7]


def test_each_round_opens_all_anew_and_every_other_one_backward():
    machine = FakeMachine()
    makers = [machine.maker(name, 3_000_000) for name in "ab"]
    taken = time_subjects(makers, blocks_only(rounds=3, min_blocks=6), *machine.clocks)
    assert machine.opened == ["a", "b", "b", "a", "a", "b"]
    assert [timing.samples.ns.shape for timing in taken] == [(6, 1)] * 2


def test_samples_are_nanoseconds_per_run_and_short_runs_are_repeated():
    machine = FakeMachine()
    makers = [machine.maker("fast", 1000), machine.maker("slow", 500_000)]
    fast, slow = (timing.samples for timing in time_subjects(makers, blocks_only(), *machine.clocks))
    assert fast.runs_per_sample == 200
    assert slow.runs_per_sample == 1
    assert np.all(fast.ns == 1000)
    assert np.all(slow.ns == 500_000)
    assert fast.ns.shape == slow.ns.shape


def test_long_runs_are_not_warmed_again_before_every_sample():
    machine = FakeMachine()
    time_subjects([machine.maker("a", 60_000_000)], blocks_only(min_blocks=5), *machine.clocks)
    assert len(machine.log) == 3 + 5


def test_warm_up_is_cut_short_where_runs_are_long():
    machine = FakeMachine()
    time_subjects([machine.maker("a", 10**9)], blocks_only(warmup=5, min_blocks=2), *machine.clocks)
    assert len(machine.log) == 1 + 1 + 2
    machine = FakeMachine()
    time_subjects([machine.maker("a", 60_000_000)], blocks_only(warmup=2, min_blocks=2), *machine.clocks)
    assert len(machine.log) == 2 + 3 + 2


def test_drift_meets_all_alike():
    machine = FakeMachine()

    def slowing() -> Subject:
        def run() -> None:
            machine.now += 300_000 + machine.now // 50

        return Subject(run)

    one, two = (
        timing.samples.ns
        for timing in time_subjects([slowing, slowing], blocks_only(min_blocks=40), *machine.clocks)
    )
    assert one[-1].mean() / one[0].mean() > 3
    assert np.median(one.mean(1) / two.mean(1)) == pytest.approx(1.0, abs=0.1)


def test_budget_ends_the_measurement_but_not_before_the_fewest_blocks():
    machine = FakeMachine()

    def blocks(**chosen) -> int:
        settings = blocks_only(**chosen)
        (timing,) = time_subjects([machine.maker("a", 100_000_000)], settings, *machine.clocks)
        return len(timing.samples.ns)

    assert blocks(budget_s=3.0, min_blocks=2) == 31
    assert blocks(budget_s=3.0, min_blocks=2, rounds=2) == 2 * 16
    assert blocks(budget_s=0.0, min_blocks=7) == 7
    assert blocks(budget_s=100.0, max_blocks=11) == 11


def test_one_cpu_thread_is_timed_by_its_own_cpu_time():
    assert sample_clock(RunSettings(threads=1)) == "cpu"
    assert sample_clock(RunSettings(threads=2)) == "wall"
    assert sample_clock(RunSettings(provider="cuda")) == "wall"

    def asleep() -> Subject:
        return Subject(lambda: time.sleep(0.01))

    (by_cpu,) = time_subjects([asleep], blocks_only(min_blocks=1))
    (by_wall,) = time_subjects([asleep], blocks_only(min_blocks=1, threads=2))
    assert by_cpu.samples.ns.max() < 5e6
    assert by_wall.samples.ns.min() >= 1e7


def test_collector_is_put_back_as_it_was():
    machine = FakeMachine()
    seen: list[bool] = []

    def maker() -> Subject:
        def run() -> None:
            machine.now += 10**9
            seen.append(gc.isenabled())

        return Subject(run)

    time_subjects([maker], blocks_only(min_blocks=1), *machine.clocks)
    assert gc.isenabled()
    assert seen[-1] is False
    gc.disable()
    try:
        time_subjects([maker], blocks_only(min_blocks=1), *machine.clocks)
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
