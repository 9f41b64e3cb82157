"""What a controller of strengths sees and says; the loop knows no more about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from sslcli.sparsity.penalty import WeightedSet


@dataclass(frozen=True)
class Signs:
    """The state of a run, as a controller is told it.

    Args:
        step: optimiser steps done.
        position: share of the penalised phase that is done, 0 to 1.
        step_size: step size of the proximal operator now.
        parameters: by name.
        metrics: on the validation split after the last epoch; empty before the first.
    """

    step: int
    position: float
    step_size: float
    parameters: Mapping[str, Tensor]
    metrics: Mapping[str, float] = field(default_factory=dict)


class Controller(Protocol):
    """Moves the strengths during a run."""

    every: int
    look_every: int

    def look(self, parameters: Mapping[str, Tensor]) -> None:
        """Take note of a step's gradients; called every ``look_every`` steps of the penalised phase."""
        ...

    def adjust(self, signs: Signs) -> Sequence[WeightedSet]:
        """The penalty from now on, set by set; asked every ``every`` steps of the penalised phase."""
        ...

    def penalties(self) -> Sequence[WeightedSet]:
        """The penalty as it was last adjusted."""
        ...

    def choose(self, parameters: Mapping[str, Tensor], step: int) -> Sequence[Tensor]:
        """For each weighted set, the groups (bool) that are zero after ``step`` steps and from then on."""
        ...

    def lacks(self, parameters: Mapping[str, Tensor], step: int) -> bool:
        """Whether what was chosen no longer meets the target, and is to be chosen anew after ``step`` steps.

        Asked before each epoch of the fine-tuning but the first, and after the last.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs, in plain values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        ...
