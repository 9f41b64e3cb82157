"""What is left of a network without given groups, and what one group more would save."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sslcli.graph.groups import GroupSet
from sslcli.sparsity.zeros import zero_masks

Watch = Callable[[Mapping[str, Tensor]], Mapping[str, float]]

_REFRESHES = 4  # in a run; between them costs drift as their layers' other sides shrink


class Budget:
    """Counts for the controller.

    Args:
        sets: the group sets.
        watch: parameters -> fractions of the original that pruning would leave.

    Attributes:
        costs: name of a fraction -> what one group of each set makes of it.
    """

    def __init__(self, sets: Sequence[GroupSet], watch: Watch) -> None:
        self.sets, self.watch = list(sets), watch
        self.costs: dict[str, list[float]] = {}
        self._refreshed = -1

    @torch.no_grad()
    def left(self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor]) -> dict[str, float]:
        """The fractions that would be left without the groups ``gone`` (a bool mask per set)."""
        masks = zero_masks(parameters, self.sets, gone)
        pruned = {
            name: value.detach().masked_fill(masks[name], 0) if name in masks else value.detach()
            for name, value in parameters.items()
        }
        return dict(self.watch(pruned))

    def refresh(self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor], position: float) -> None:
        """Measure anew what one group of each set costs, a few times in a run.

        Args:
            parameters: by name.
            gone: groups that are on their way out, per set.
            position: share of the run that is done.
        """
        due = int(position * _REFRESHES)
        if due <= self._refreshed:
            return
        self._refreshed = due
        whole = self.left(parameters, gone)
        self.costs = {name: [] for name in whole}
        for number in range(len(self.sets)):
            without, removed = self._without_some(parameters, gone, number)
            for name, value in whole.items():
                self.costs[name].append(max(0.0, value - without[name]) / removed)

    def burden(self, number: int, target: Mapping[str, float]) -> float:
        """What one group of a set costs, in shares of what has to go."""
        return sum(self.costs[name][number] / max(1 - limit, 1e-6) for name, limit in target.items())

    def state(self) -> dict[str, Any]:
        """All that changes during a run."""
        return {"costs": self.costs, "refreshed": self._refreshed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.costs, self._refreshed = dict(state["costs"]), state["refreshed"]

    def _without_some(
        self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor], number: int
    ) -> tuple[dict[str, float], int]:
        """What would be left without a quarter of a set's live groups, and how many those are.

        One group alone may save nothing: under a padded convolution the first constant channel stays and
        carries the constants of all that follow.
        """
        live = torch.nonzero(~gone[number]).reshape(-1)
        count = max(1, len(live) // 4)
        marked = [mask.clone() for mask in gone]
        marked[number][live[:count]] = True
        return self.left(parameters, marked), count
