"""Times several subjects in turn, so that drift of the machine meets all of them alike.

A block holds samples of every subject. Blocks run forward and backward by turns over a shuffled order,
so each subject follows and precedes each other equally often. A sample is the mean of a few runs where
one run is too short for the clock, else one run. Blocks come in rounds: each opens all subjects anew, every
other one in reverse order, since where a session's memory happens to lie is worth some per cent.

On one CPU thread the clock is the thread's own CPU time: what the run takes on a core of its own. By the
wall clock, on a machine with other work, a long run is interrupted more often than a short one, and ratios
come out too large (11 in place of 5 was seen). With more threads, and on CUDA, there is only the wall clock.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from sslcli.bench.inputs import Array, ModelSource, RunSettings
from sslcli.bench.sessions import bind

Run = Callable[[], object]
Clock = Callable[[], int]
ClockName = Literal["cpu", "wall"]

_SAMPLE_NS = 200_000  # a thousand times what reading the clock costs
_BLOCK_NS = 2_000_000
_MOST_SAMPLES = 8
_REWARM_BELOW_NS = 50_000_000
_LONG_WARM_UP_NS = 200_000_000


@dataclass(frozen=True)
class Subject:
    """Something to be timed.

    Attributes:
        run: does the work once.
        settle_s: seconds to wait after its samples, for worker threads that spin on after the work is done.
        nodes: executed nodes by provider.
    """

    run: Run
    settle_s: float = 0.0
    nodes: Mapping[str, int] = field(default_factory=dict)


Maker = Callable[[], Subject]


@dataclass(frozen=True)
class Samples:
    """Times of one subject.

    Attributes:
        ns: nanoseconds per run, float64, shape (blocks, samples in a block).
        runs_per_sample: runs that one sample is the mean of.
        rounds: how many of the blocks each round has.
    """

    ns: Array
    runs_per_sample: int
    rounds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Timing:
    """Times of one subject, and how many nodes each provider ran."""

    samples: Samples
    nodes: Mapping[str, int]


@dataclass(frozen=True)
class Rhythm:
    """What a block is made of.

    Attributes:
        runs: runs in a sample, for each subject.
        samples: samples in a block; one number for all, so that every block pairs equally many.
        rewarm: whether an untimed run goes before a subject's samples.
    """

    runs: tuple[int, ...]
    samples: int
    rewarm: bool


def time_models(
    models: Sequence[ModelSource], settings: RunSettings, inputs: Mapping[str, Array] | None = None
) -> list[Timing]:
    """Time ONNX models against each other on one provider.

    Args:
        models: files or serialised models; the first is usually the base.
        settings: provider, threads, batch, budget and seed.
        inputs: arrays by input name for all models; default: random ones, equal where the inputs agree.

    Raises:
        DeviceError: the provider is missing or did not run every node.
        ModelError: a model cannot be opened or run.
        InputError: a model does not take the batch size.
    """
    return time_subjects(
        [functools.partial(session_subject, model, settings, inputs) for model in models], settings
    )


def session_subject(
    model: ModelSource, settings: RunSettings, inputs: Mapping[str, Array] | None = None
) -> Subject:
    """Open ``model`` to be timed; raises as ``time_models`` does."""
    bound = bind(model, settings, inputs)
    return Subject(bound.run, nodes=Counter(node.provider for node in bound.placements))


def time_subjects(
    makers: Sequence[Maker],
    settings: RunSettings,
    clock: Clock | None = None,
    wall: Clock = time.perf_counter_ns,
) -> list[Timing]:
    """Time what ``makers`` open, in rounds.

    Args:
        makers: each opens one subject.
        settings: warm-up, rounds, budget, block limits and seed.
        clock: nanoseconds that samples are made of; None: what ``sample_clock`` says.
        wall: nanoseconds that the budget is made of.
    """
    heat = Heat(makers, settings, clock, wall)
    for number in range(settings.rounds):
        heat.run(number)
    return heat.timings()


class Heat:
    """Subjects that are timed against each other, one round at a time.

    Several heats that take turns, round by round, each see all of the time that the whole takes: what the
    machine does for some seconds meets one round of a heat and not all of them.

    Args:
        makers: each opens one subject.
        settings: warm-up, rounds, budget, block limits and seed.
        clock: nanoseconds that samples are made of; None: what ``sample_clock`` says.
        wall: nanoseconds that the budget is made of.
    """

    def __init__(
        self,
        makers: Sequence[Maker],
        settings: RunSettings,
        clock: Clock | None = None,
        wall: Clock = time.perf_counter_ns,
    ) -> None:
        own = time.thread_time_ns if sample_clock(settings) == "cpu" else time.perf_counter_ns
        self.makers, self.settings = makers, settings
        self._clock, self._wall = clock or own, wall
        self._rhythm: Rhythm | None = None
        self._parts: list[list[Array]] = []
        self._nodes: list[Mapping[str, int]] = []

    def run(self, number: int) -> None:
        """Open all subjects and time round ``number`` of ``settings.rounds``."""
        subjects = _open(self.makers, backward=number % 2 == 1)
        costs = [_warm_up(subject, self.settings.warmup, self._clock) for subject in subjects]
        self._rhythm = self._rhythm or _rhythm(costs)
        settings = _one_round(self.settings, number)
        self._parts.append(interleave(subjects, self._rhythm, settings, self._clock, self._wall))
        self._nodes = [subject.nodes for subject in subjects]  # subjects go, for the next round's memory

    def timings(self) -> list[Timing]:
        """The times of all rounds so far, for each subject."""
        assert self._rhythm is not None  # at least one round was run
        taken = zip(zip(*self._parts, strict=True), self._rhythm.runs, self._nodes, strict=True)
        return [
            Timing(Samples(np.concatenate(arrays), count, tuple(map(len, arrays))), dict(found))
            for arrays, count, found in taken
        ]


def interleave(
    subjects: Sequence[Subject], rhythm: Rhythm, settings: RunSettings, clock: Clock, wall: Clock
) -> list[Array]:
    """Run warm subjects block by block until the budget is spent.

    Returns:
        For each subject nanoseconds per run, (blocks, samples).
    """
    started = wall()
    taken: list[list[Array]] = [[] for _ in subjects]
    with _no_collection():
        for block, order in enumerate(_orders(len(subjects), settings.seed)):
            spent = (wall() - started) / 1e9
            if block >= settings.max_blocks or (block >= settings.min_blocks and spent > settings.budget_s):
                break
            for which in order:
                taken[which].append(_block(subjects[which], rhythm.runs[which], rhythm, clock))
    return [np.stack(rows) for rows in taken]


def sample_clock(settings: RunSettings) -> ClockName:
    """Which clock samples are made of: the thread's CPU time where one thread does all the work."""
    return "cpu" if settings.provider == "cpu" and settings.threads == 1 else "wall"


def _open(makers: Sequence[Maker], *, backward: bool) -> list[Subject]:
    """Open all subjects, the last one first if ``backward``."""
    numbers = range(len(makers))
    opened = {number: makers[number]() for number in (reversed(numbers) if backward else numbers)}
    return [opened[number] for number in numbers]


def _rhythm(costs: Sequence[float]) -> Rhythm:
    """The rhythm for subjects whose runs take ``costs`` nanoseconds."""
    runs = tuple(max(1, math.ceil(_SAMPLE_NS / cost)) for cost in costs)
    longest = max(count * cost for count, cost in zip(runs, costs, strict=True))
    samples = int(min(_MOST_SAMPLES, max(1, _BLOCK_NS // longest)))
    return Rhythm(runs, samples, rewarm=max(costs) < _REWARM_BELOW_NS)


def _one_round(settings: RunSettings, number: int) -> RunSettings:
    """The share of round ``number`` in budget and blocks, with an order of its own."""
    return replace(
        settings,
        budget_s=settings.budget_s / settings.rounds,
        min_blocks=math.ceil(settings.min_blocks / settings.rounds),
        max_blocks=max(1, settings.max_blocks // settings.rounds),
        seed=settings.seed + number,
    )


def _block(subject: Subject, runs: int, rhythm: Rhythm, clock: Clock) -> Array:
    """The samples of one subject in one block, nanoseconds per run."""
    if rhythm.rewarm:
        subject.run()  # the subject before it has put its own weights into the caches
    samples = np.array([_sample(subject.run, runs, clock) for _ in range(rhythm.samples)])
    if subject.settle_s:
        time.sleep(subject.settle_s)
    return samples


def _sample(run: Run, runs: int, clock: Clock) -> float:
    started = clock()
    for _ in range(runs):
        run()
    return (clock() - started) / runs


def _warm_up(subject: Subject, warmup: int, clock: Clock) -> float:
    """Run ``warmup`` times, then return the shortest of three in nanoseconds; fewer where runs are long."""
    spent = 0.0
    for _ in range(warmup):
        spent += _sample(subject.run, 1, clock)
        if spent > _LONG_WARM_UP_NS:
            break
    costs = [_sample(subject.run, 1, clock)]
    while len(costs) < 3 and sum(costs) < _LONG_WARM_UP_NS:
        costs.append(_sample(subject.run, 1, clock))
    if subject.settle_s:
        time.sleep(subject.settle_s)
    return max(1.0, min(costs))


def _orders(count: int, seed: int) -> Iterator[list[int]]:
    """Shuffled orders, each followed by its reverse."""
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(count).tolist()
        yield order
        yield order[::-1]


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector out of the timed part."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
