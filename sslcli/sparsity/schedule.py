"""How strengths change in the course of a run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence


def ramp(epoch: float, warmup: float) -> float:
    """Rise linearly from 0 to 1 over ``warmup`` epochs.

    Args:
        epoch: position of the run in epochs, with fraction.
        warmup: length of the rise in epochs.
    """
    return 1.0 if warmup <= 0 else min(1.0, epoch / warmup)


def staged(epoch: float, milestones: Sequence[float], factors: Sequence[float]) -> float:
    """The factor of the stage that ``epoch`` lies in.

    Args:
        epoch: position of the run in epochs, with fraction.
        milestones: epochs at which the next stage begins, increasing.
        factors: one factor per stage, one more than ``milestones``.
    """
    return factors[bisect_right(milestones, epoch)]
