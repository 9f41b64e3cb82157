from __future__ import annotations

import numpy as np
import pytest

from sslcli.bench.statistics import (
    Ratio,
    mean_ratio,
    paired_ratio,
    require_ratio,
    summarise,
    unpaired_ratio,
)
from sslcli.errors import GateError


def noisy(seed: int, scale: float = 1.0, blocks: int = 40, samples: int = 4) -> np.ndarray:
    """Latencies as machines give them: a floor, a skewed tail, and now and then an outlier."""
    random = np.random.default_rng(seed)
    values = 1e6 + random.gamma(2.0, 3e4, (blocks, samples))
    values[random.random(values.shape) < 0.03] *= 4
    return values * scale


def test_summary_of_known_samples():
    latency = summarise(np.arange(1, 102, dtype=float).reshape(101, 1) * 1e6, batch_size=8)
    assert latency.median_ms == 51
    assert latency.p90_ms == 91
    assert latency.p99_ms == 100
    assert latency.minimum_ms == 1
    assert latency.throughput == pytest.approx(8 / 51e-3)


def test_ratio_of_constant_samples_is_exact():
    base, other = np.full((9, 3), 6e6), np.full((9, 3), 2e6)
    assert paired_ratio(base, other) == Ratio(3.0, 3.0, 3.0)
    assert unpaired_ratio(base, other) == Ratio(3.0, 3.0, 3.0)
    assert mean_ratio([(base, other), (other, other)]) == Ratio(2.0, 2.0, 2.0)


def test_drift_that_meets_both_alike_cancels_in_paired_ratios():
    drift = np.linspace(1, 5, 30)[:, None]
    found = paired_ratio(2e6 * drift, 1e6 * drift)
    assert found.value == pytest.approx(2.0)
    assert found.high - found.low < 1e-9


def test_interval_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(100):
        found = paired_ratio(noisy(seed, 1.5), noisy(1000 + seed), resamples=400)
        held += found.low <= 1.5 <= found.high
    assert held >= 89


def test_interval_shrinks_with_more_blocks():
    few, many = (paired_ratio(noisy(0, blocks=n), noisy(1, blocks=n)) for n in (10, 1000))
    assert many.high - many.low < (few.high - few.low) / 3


def test_same_seed_gives_the_same_interval():
    base, other = noisy(0), noisy(1)
    assert paired_ratio(base, other, seed=3) == paired_ratio(base, other, seed=3)
    assert paired_ratio(base, other, seed=3) != paired_ratio(base, other, seed=4)


def test_blocks_must_be_paired():
    with pytest.raises(ValueError, match="not paired"):
        paired_ratio(noisy(0, blocks=4), noisy(1, blocks=5))


def test_files_of_different_length_compare_unpaired():
    found = unpaired_ratio(noisy(0, 2.0, blocks=30), noisy(1, blocks=50))
    assert found.low <= 2.0 <= found.high


def test_rounds_that_differ_widen_every_kind_of_interval():
    # Twelve blocks in four rounds, each round steady in itself: 2.0, 2.2, 2.0 and 2.2 times faster.
    base = np.full((12, 2), 6e6)
    other = base / np.repeat([2.0, 2.2, 2.0, 2.2], 3)[:, None]
    rounds = (3, 3, 3, 3)
    spread = np.std(np.log([2.0, 2.2, 2.0, 2.2]), ddof=1) / 2
    widest = np.exp(3.182 * spread)  # Student's t of three degrees of freedom
    paired = paired_ratio(base, other, rounds=rounds)
    assert paired.high / paired.value == pytest.approx(widest)
    apart = unpaired_ratio(base, other, rounds=(rounds, rounds))
    assert (apart.low, apart.high) == pytest.approx((apart.value / widest, apart.value * widest))
    alone = mean_ratio([(base, other)], rounds=[rounds])
    both = mean_ratio([(base, other), (base, other)], rounds=[rounds, rounds])
    half = 3.182 * np.std([2.0, 2.2, 2.0, 2.2], ddof=1) / 2
    assert alone.high - alone.value == pytest.approx(half)
    assert both.high - both.value == pytest.approx(half / np.sqrt(2))


@pytest.mark.parametrize("rounds", [(), (6, 6)])
def test_fewer_than_three_rounds_leave_the_interval_alone(rounds):
    base, other = noisy(0, 2.0, blocks=12), noisy(1, blocks=12)
    assert unpaired_ratio(base, other, rounds=(rounds, (4, 4, 4))) == unpaired_ratio(base, other)
    assert mean_ratio([(base, other)], rounds=[rounds]) == mean_ratio([(base, other)])


def test_gate_never_fails_on_a_hundred_equal_pairs():
    for seed in range(100):
        require_ratio(paired_ratio(noisy(seed), noisy(500 + seed), resamples=400), 0.95, "the model")


def test_gate_fails_only_when_the_interval_lies_below():
    require_ratio(Ratio(1.4, 1.2, 1.5), 1.5, "the model")
    with pytest.raises(GateError, match=r"1\.4x as fast .*1\.2 to 1\.49.*below 1\.5") as caught:
        require_ratio(Ratio(1.4, 1.2, 1.49), 1.5, "the model")
    assert caught.value.exit_code == 7


def test_gate_finds_a_real_slowdown():
    with pytest.raises(GateError):
        require_ratio(paired_ratio(noisy(0), noisy(1, 1.25)), 0.95, "the model")


def rounds_of(*ratios: float, blocks: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """A base and another model whose ratio is constant in each round."""
    base = np.full((blocks * len(ratios), 3), 6e6)
    return base, base / np.repeat(ratios, blocks)[:, None]


def test_rounds_that_differ_widen_the_interval_to_students():
    base, other = rounds_of(1.0, 1.1, 0.9, 1.0)
    ratio = paired_ratio(base, other, rounds=(10, 10, 10, 10))
    half = 3.182 * np.std(np.log([1.0, 1.1, 0.9, 1.0]), ddof=1) / 2
    assert ratio.value == pytest.approx(1.0)
    assert ratio.low == pytest.approx(np.exp(-half))
    assert ratio.high == pytest.approx(np.exp(half))


def test_the_interval_is_never_narrower_than_the_bootstraps():
    base, other = noisy(0), noisy(1, 0.5)
    alone, widened = paired_ratio(base, other), paired_ratio(base, other, rounds=(10, 10, 10, 10))
    assert widened.value == alone.value
    assert widened.low <= alone.low
    assert widened.high >= alone.high


@pytest.mark.parametrize("rounds", [(), (40,), (20, 20)])
def test_fewer_than_three_rounds_say_nothing_of_their_spread(rounds):
    base, other = rounds_of(1.0, 1.1, 0.9, 1.0)
    assert paired_ratio(base, other, rounds=rounds) == paired_ratio(base, other)
