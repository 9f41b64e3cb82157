"""Times several subjects in turn, so that drift of the machine meets all of them alike.

A block holds samples of every subject. Blocks run forward and backward by turns over a shuffled order,
so each subject follows and precedes each other equally often. A sample is the mean of a few runs where
one run is too short for the clock, else one run.

On one CPU thread the clock is the thread's own CPU time: what the run takes on a core of its own. By the
wall clock, on a machine with other work, a long run is interrupted more often than a short one, and ratios
come out too large (11 in place of 5 was seen). With more threads, and on CUDA, there is only the wall clock.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sslcli.bench.inputs import Array, ModelSource, RunSettings
from sslcli.bench.sessions import BoundModel, bind

Run = Callable[[], object]
Clock = Callable[[], int]
ClockName = Literal["cpu", "wall"]

_SAMPLE_NS = 200_000  # a thousand times what reading the clock costs
_BLOCK_NS = 2_000_000
_MOST_SAMPLES = 8
_REWARM_BELOW_NS = 50_000_000


@dataclass(frozen=True)
class Subject:
    """Something to be timed.

    Attributes:
        run: does the work once.
        settle_s: seconds to wait after its samples, for worker threads that spin on after the work is done.
    """

    run: Run
    settle_s: float = 0.0


@dataclass(frozen=True)
class Samples:
    """Times of one subject.

    Attributes:
        ns: nanoseconds per run, float64, shape (blocks, samples in a block).
        runs_per_sample: runs that one sample is the mean of.
    """

    ns: Array
    runs_per_sample: int


@dataclass(frozen=True)
class Timing:
    """Times of one model, and how many nodes each provider ran."""

    samples: Samples
    nodes: Mapping[str, int]


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
    return time_bound([bind(model, settings, inputs) for model in models], settings)


def time_bound(bound: Sequence[BoundModel], settings: RunSettings) -> list[Timing]:
    """Time sessions that are open already."""
    samples = interleave([Subject(model.run) for model in bound], settings)
    return [
        Timing(taken, dict(Counter(node.provider for node in model.placements)))
        for taken, model in zip(samples, bound, strict=True)
    ]


def interleave(
    subjects: Sequence[Subject],
    settings: RunSettings,
    clock: Clock | None = None,
    wall: Clock = time.perf_counter_ns,
) -> list[Samples]:
    """Run all subjects block by block until the budget is spent.

    Args:
        subjects: what to time.
        settings: warm-up, budget, block limits and seed.
        clock: nanoseconds that samples are made of; None: what ``sample_clock`` says.
        wall: nanoseconds that the budget is made of.
    """
    clock = clock or (time.thread_time_ns if sample_clock(settings) == "cpu" else time.perf_counter_ns)
    started = wall()
    costs = [_warm_up(subject, settings.warmup, clock) for subject in subjects]
    inner = [max(1, math.ceil(_SAMPLE_NS / cost)) for cost in costs]
    # One number for all, so that every block pairs equally many samples.
    longest = max(runs * cost for runs, cost in zip(inner, costs, strict=True))
    repeats = int(min(_MOST_SAMPLES, max(1, _BLOCK_NS // longest)))
    rewarm = max(costs) < _REWARM_BELOW_NS
    taken: list[list[Array]] = [[] for _ in subjects]
    with _no_collection():
        for block, order in enumerate(_orders(len(subjects), settings.seed)):
            spent = (wall() - started) / 1e9
            if block >= settings.max_blocks or (block >= settings.min_blocks and spent > settings.budget_s):
                break
            for which in order:
                taken[which].append(_block(subjects[which], inner[which], repeats, rewarm, clock))
    return [Samples(np.stack(rows), runs) for rows, runs in zip(taken, inner, strict=True)]


def sample_clock(settings: RunSettings) -> ClockName:
    """Which clock samples are made of: the thread's CPU time where one thread does all the work."""
    return "cpu" if settings.provider == "cpu" and settings.threads == 1 else "wall"


def _block(subject: Subject, inner: int, repeats: int, rewarm: bool, clock: Clock) -> Array:
    """``repeats`` samples of one subject, nanoseconds per run."""
    if rewarm:
        subject.run()  # the subject before it has put its own weights into the caches
    samples = np.empty(repeats)
    for index in range(repeats):
        samples[index] = _sample(subject.run, inner, clock)
    if subject.settle_s:
        time.sleep(subject.settle_s)
    return samples


def _sample(run: Run, inner: int, clock: Clock) -> float:
    started = clock()
    for _ in range(inner):
        run()
    return (clock() - started) / inner


def _warm_up(subject: Subject, warmup: int, clock: Clock) -> float:
    """Run ``warmup`` times untimed, then return the shortest of three runs in nanoseconds."""
    for _ in range(warmup):
        subject.run()
    shortest = min(_sample(subject.run, 1, clock) for _ in range(3))
    if subject.settle_s:
        time.sleep(subject.settle_s)
    return max(1.0, shortest)


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
