"""Medians, percentiles, and the interval of a ratio.

The samples of a comparison come in blocks that hold every subject, taken within milliseconds. A ratio is
formed inside each block, where the machine was in one state, and the median is taken over blocks: on a
shared machine that repeats twice as well as the ratio of the two medians. The bootstrap draws neighbouring
blocks together, since what is measured in one state of the machine is not independent (Politis and Romano,
"A circular block-resampling procedure for stationary data", 1992). Where models were opened anew in three
rounds or more, the interval is no narrower than the spread of the rounds allows (Student's t): another run
of the bench differs by where memory lies and by what else the machine does, which one round does not see.
Without it, of 37 ratios measured twice on a busy machine 4 had intervals apart; with it none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sslcli.errors import GateError

Array = np.ndarray[Any, np.dtype[Any]]

RESAMPLES = 2000
_CONFIDENCE = 0.95
_PIECES = 25  # neighbouring blocks are drawn together, this many draws in all
_CHUNK = 1_000_000  # values drawn at a time
# The 97.5 % point of Student's t by degrees of freedom; beyond, that of ten serves.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Latency:
    """Latency of one subject in milliseconds, and items per second at the median."""

    median_ms: float
    p90_ms: float
    p99_ms: float
    minimum_ms: float
    throughput: float


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the base; 2 means half the time.

    Attributes:
        value: the estimate.
        low: lower end of its 95 % interval.
        high: upper end of it.
    """

    value: float
    low: float
    high: float


def summarise(ns: Array, batch_size: int) -> Latency:
    """Summarise samples in nanoseconds.

    Args:
        ns: nanoseconds per run, any shape.
        batch_size: items in one run.
    """
    median, p90, p99 = np.percentile(ns, (50, 90, 99)) / 1e6
    return Latency(
        median_ms=float(median),
        p90_ms=float(p90),
        p99_ms=float(p99),
        minimum_ms=float(ns.min()) / 1e6,
        throughput=float(batch_size * 1e3 / median),
    )


def paired_ratio(
    base: Array, other: Array, *, seed: int = 0, resamples: int = RESAMPLES, rounds: Sequence[int] = ()
) -> Ratio:
    """Median over blocks of (median of the base in the block / median of the other in it).

    Args:
        base: nanoseconds, (blocks, samples).
        other: nanoseconds, (blocks, samples); block i was measured together with block i of ``base``.
        seed: seed of the resampling.
        resamples: bootstrap draws.
        rounds: how many blocks each round has, in order; fewer than three rounds say nothing of their spread.

    Reference:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile interval).
    """
    ratios = _block_ratios(base, other)
    drawn = _bootstrap_medians(ratios, np.random.default_rng(seed), resamples)
    return _spread_over_rounds(_ratio(float(np.median(ratios)), drawn), ratios, rounds)


def unpaired_ratio(
    base: Array,
    other: Array,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    rounds: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> Ratio:
    """Ratio of the medians of samples that were measured apart, such as in two files.

    Args:
        base: nanoseconds, (blocks, samples).
        other: nanoseconds, (blocks, samples).
        seed: seed of the resampling.
        resamples: bootstrap draws; each draws blocks of both sides.
        rounds: how many blocks each round of the base and of the other has, as in ``paired_ratio``.
    """
    generator = np.random.default_rng(seed)
    medians = [np.median(side, axis=1) for side in (base, other)]
    above, below = (_bootstrap_medians(side, generator, resamples) for side in medians)
    ratio = _ratio(float(np.median(medians[0]) / np.median(medians[1])), above / below)
    if min(map(len, rounds)) < _LEAST_ROUNDS:
        return ratio
    sides = [np.log(_round_medians(side, counts)) for side, counts in zip(medians, rounds, strict=True)]
    variance = sum(float(np.var(side, ddof=1)) / len(side) for side in sides)
    half = _student(min(map(len, sides))) * math.sqrt(variance)
    return _no_narrower(ratio, math.exp(-half), math.exp(half))


def mean_ratio(
    pairs: Sequence[tuple[Array, Array]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    rounds: Sequence[Sequence[int]] = (),
) -> Ratio:
    """Arithmetic mean of several paired ratios, such as the paper's over layers, and its interval.

    Args:
        pairs: base and other of each, as in ``paired_ratio``.
        seed: seed of the resampling.
        resamples: bootstrap draws.
        rounds: the rounds of each pair, as in ``paired_ratio``. Pairs are taken as measured apart, each with
            the variance that its rounds show.
    """
    generator = np.random.default_rng(seed)
    ratios = [_block_ratios(base, other) for base, other in pairs]
    drawn = np.mean([_bootstrap_medians(item, generator, resamples) for item in ratios], axis=0)
    ratio = _ratio(float(np.mean([np.median(item) for item in ratios])), drawn)
    if not rounds or min(map(len, rounds)) < _LEAST_ROUNDS:
        return ratio
    parts = [_round_medians(item, counts) for item, counts in zip(ratios, rounds, strict=True)]
    variance = sum(float(np.var(part, ddof=1)) / len(part) for part in parts) / len(parts) ** 2
    half = _student(min(map(len, parts))) * math.sqrt(variance) / ratio.value
    return _no_narrower(ratio, 1 - half, 1 + half)


def _spread_over_rounds(ratio: Ratio, ratios: Array, rounds: Sequence[int]) -> Ratio:
    """The interval widened to Student's, of the rounds' medians in logarithms around the estimate."""
    if len(rounds) < _LEAST_ROUNDS:
        return ratio
    medians = np.log(_round_medians(ratios, rounds))
    half = _student(len(medians)) * float(np.std(medians, ddof=1)) / math.sqrt(len(medians))
    return _no_narrower(ratio, math.exp(-half), math.exp(half))


def _round_medians(values: Array, rounds: Sequence[int]) -> Array:
    return np.array([np.median(part) for part in np.split(values, np.cumsum(rounds)[:-1])])


def _student(count: int) -> float:
    return _STUDENT[min(count - 1, len(_STUDENT)) - 1]


def _no_narrower(ratio: Ratio, low: float, high: float) -> Ratio:
    return Ratio(ratio.value, min(ratio.low, ratio.value * low), max(ratio.high, ratio.value * high))


def require_ratio(measured: Ratio, fail_under: float, what: str) -> None:
    """Raise GateError if ``measured`` is below ``fail_under`` beyond its interval.

    The gate fails only when the whole interval lies below, so that noise alone does not fail a build.
    """
    if measured.high < fail_under:
        raise GateError(
            f"{what} is {measured.value:.3g}x as fast as the base "
            f"(95 % interval {measured.low:.3g} to {measured.high:.3g}), below {fail_under:g}",
            "see the layers' rows for where the time goes, or lower --fail-under",
        )


def _block_ratios(base: Array, other: Array) -> Array:
    if len(base) != len(other):
        raise ValueError(f"{len(base)} blocks of the base are not paired with {len(other)} of the other")
    ratios: Array = np.median(base, axis=1) / np.median(other, axis=1)
    return ratios


def _bootstrap_medians(values: Array, generator: np.random.Generator, resamples: int) -> Array:
    """Medians of ``resamples`` draws of runs of neighbouring blocks, (resamples,)."""
    count = len(values)
    length = math.ceil(count / _PIECES)
    pieces = math.ceil(count / length)
    chunk = max(1, _CHUNK // count)
    medians = []
    for start in range(0, resamples, chunk):
        firsts = generator.integers(0, count, (min(chunk, resamples - start), pieces, 1))
        chosen = (firsts + np.arange(length)) % count
        medians.append(np.median(values[chosen.reshape(len(firsts), -1)[:, :count]], axis=1))
    return np.concatenate(medians)


def _ratio(value: float, drawn: Array) -> Ratio:
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return Ratio(value, float(low), float(high))
