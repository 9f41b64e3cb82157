"""Medians, percentiles, and the interval of a ratio of medians.

The samples of a comparison come in blocks that hold every subject, so the bootstrap draws whole blocks:
what disturbed a block disturbed all subjects in it, and samples of one block are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sslcli.errors import GateError

Array = np.ndarray[Any, np.dtype[Any]]

RESAMPLES = 2000
_CONFIDENCE = 0.95


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
    """How many times faster a subject is than the base: median of the base / median of the subject.

    Attributes:
        value: ratio of the medians of all samples.
        low: lower end of the 95 % bootstrap interval.
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


def ratio(base: Array, other: Array, *, seed: int = 0, resamples: int = RESAMPLES) -> Ratio:
    """Ratio of medians and its bootstrap interval over paired blocks.

    Args:
        base: nanoseconds, (blocks, samples).
        other: nanoseconds, (blocks, samples); block i was measured together with block i of ``base``.
        seed: seed of the resampling.
        resamples: bootstrap draws.

    Reference:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile interval).
    """
    if len(base) != len(other):
        raise ValueError(f"{len(base)} blocks of the base are not paired with {len(other)} of the other")
    generator = np.random.default_rng(seed)
    drawn = np.array([_ratio_of_medians(base, other, generator) for _ in range(resamples)])
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return Ratio(float(np.median(base) / np.median(other)), float(low), float(high))


def mean_ratio(pairs: Sequence[tuple[Array, Array]], *, seed: int = 0, resamples: int = RESAMPLES) -> Ratio:
    """Arithmetic mean of several ratios (the paper's mean over layers) and its bootstrap interval."""
    generator = np.random.default_rng(seed)
    drawn = np.array(
        [[_ratio_of_medians(base, other, generator) for _ in range(resamples)] for base, other in pairs]
    ).mean(axis=0)
    value = np.mean([np.median(base) / np.median(other) for base, other in pairs])
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return Ratio(float(value), float(low), float(high))


def require_ratio(measured: Ratio, fail_under: float, what: str) -> None:
    """Raise GateError if ``measured`` is below ``fail_under`` beyond its interval.

    The gate fails only when the whole interval lies below, so that noise alone does not fail a build.
    """
    if measured.high < fail_under:
        raise GateError(
            f"{what} is {measured.value:.3g}x as fast as the base "
            f"(95 % interval {measured.low:.3g} to {measured.high:.3g}), below {fail_under:g}",
            "see the table of layers for where the time goes, or lower --fail-under",
        )


def _ratio_of_medians(base: Array, other: Array, generator: np.random.Generator) -> float:
    chosen = generator.integers(0, len(base), len(base))
    return float(np.median(base[chosen]) / np.median(other[chosen]))
