"""Noticing that a run cannot come to any good: numbers that are not finite, a network that is all zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from sslcli.errors import TargetError
from sslcli.sparsity.penalty import WeightedSet, penalty
from sslcli.sparsity.zeros import zero_groups


class SpoiledError(TargetError):
    """Training that cannot come to any good from where it is.

    Args:
        what: is wrong, a sentence.
        hint: what to do next.
        event: what happened when, a clause in the past tense.
    """

    def __init__(self, what: str, hint: str, event: str) -> None:
        super().__init__(what, hint)
        self.event = event


class CollapsedError(SpoiledError):
    """A network whose output no longer depends on its input.

    Args:
        step: after which that was noticed.
        why: what is known of the cause, to follow the sentence.
        hint: what to do next.
    """

    def __init__(self, step: int, why: str, hint: str) -> None:
        super().__init__(
            f"training collapsed: the output is the same for every input after step {step}{why}",
            hint,
            f"after step {step} the output was the same for every input",
        )


class DivergedError(SpoiledError):
    """A loss that is NaN or infinite.

    Args:
        loss: of some samples.
        step: optimiser steps done.
        rate: the option that gave the learning rate, and its value.
        hint: what to do next.
    """

    def __init__(self, loss: float, step: int, rate: str, hint: str) -> None:
        super().__init__(
            f"training diverged: the loss is {loss} at step {step}",
            hint,
            f"at step {step}, with {rate}, the loss was {loss}",
        )


def check_finite(
    loss: float, step: int, rate: str, parameters: Mapping[str, Tensor], penalties: Sequence[WeightedSet]
) -> None:
    """Raise DivergedError where the loss is NaN or infinite, naming the strength to lower.

    Args:
        loss: of some samples.
        step: optimiser steps done.
        rate: the option that gave the learning rate, and its value.
        parameters: by name.
        penalties: those whose strength the user gave.
    """
    if math.isfinite(loss):
        return
    heaviest = _heaviest(parameters, penalties)
    lower = f"lower {rate}"
    if heaviest is not None:
        lower = f"lower the strength of {_named(heaviest)}, or {rate}"
    raise DivergedError(loss, step, rate, lower)


def collapsed(
    step: int, rate: str, parameters: Mapping[str, Tensor], penalties: Sequence[WeightedSet]
) -> CollapsedError:
    """The error of a network whose output no longer depends on its input; arguments as above."""
    dead = [
        weighted
        for weighted, zeros in zip(
            penalties, zero_groups(parameters, [w.group_set for w in penalties]), strict=True
        )
        if weighted.strength > 0 and bool(zeros.all())
    ]
    if not dead:
        return CollapsedError(step, "", f"lower {rate}")
    worst = max(dead, key=lambda weighted: weighted.strength)
    group_set = worst.group_set
    why = f", and every {group_set.structure} group of {group_set.label} is zero"
    return CollapsedError(step, why, f"lower the strength of {_named(worst)}")


def _heaviest(parameters: Mapping[str, Tensor], penalties: Sequence[WeightedSet]) -> WeightedSet | None:
    """The set with the largest share of the penalty; NaN counts as large."""
    active = [weighted for weighted in penalties if weighted.strength > 0]

    def share(weighted: WeightedSet) -> float:
        value = float(penalty(parameters, [weighted.group_set], [weighted.strength], weighted.size_weights))
        return value if math.isfinite(value) else math.inf

    return max(active, key=share, default=None)


def _named(weighted: WeightedSet) -> str:
    return f"{weighted.group_set.structure} ({weighted.strength:g} on {weighted.group_set.label})"
