"""What is left of a network without given groups, and what one group more would save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sslcli.graph.groups import GroupSet
from sslcli.sparsity.zeros import zero_masks
from sslcli.targeting.bundles import Bundle, Bundler
from sslcli.targeting.latency import Latency
from sslcli.targeting.left import Watch
from sslcli.targeting.norms import Norm, settled

_REFRESHES = 4  # in a run; between them costs drift as their layers' other sides shrink
_HALVINGS = 8
_HARDLY_LESS = 0.98


class Budget:
    """Counts for the controller.

    Args:
        sets: the group sets.
        watch: parameters -> fractions of the original that pruning would leave.
        latency: where ``watch`` estimates it: what measures it, so that the estimates can be corrected.
        bundler: says which groups go together; None: each goes by itself.
        model: whose norms forget the filters that go for good.
        norms: of the model.
        aim: fraction of the latency that is to be left, near which its estimates are corrected first; None:
            there is none.

    Attributes:
        costs: name of a fraction -> what one group of each set makes of it, as a part of its bundle.
        corrections: name of a fraction -> (estimated, measured), the last that there was. Estimates are right
            for the whole network; between it and what was measured they are corrected linearly, beyond that
            in proportion.
    """

    def __init__(
        self,
        sets: Sequence[GroupSet],
        watch: Watch,
        latency: Latency | None = None,
        bundler: Bundler | None = None,
        model: nn.Module | None = None,
        norms: Sequence[Norm] = (),
        aim: float | None = None,
    ) -> None:
        self.sets, self.watch, self.latency = list(sets), watch, latency
        self.model, self.norms, self.aim = model, list(norms), aim
        self.bundler = bundler or Bundler(None, sets)
        self.costs: dict[str, list[float]] = {}
        self.corrections: dict[str, tuple[float, float]] = {}
        self._refreshed = -1

    @torch.no_grad()
    def left(self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor]) -> dict[str, float]:
        """The fractions that would be left without the groups ``gone`` (a bool mask per set)."""
        return self.now(self._without(parameters, gone))

    def now(self, parameters: Mapping[str, Tensor]) -> dict[str, float]:
        """The fractions that pruning now would leave, estimates corrected."""
        found = self.watch(parameters)
        return {
            name: corrected(value, *self.corrections[name]) if name in self.corrections else value
            for name, value in found.items()
        }

    @torch.no_grad()
    def correct(self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor]) -> dict[str, float]:
        """Measure what is only estimated, correct the estimates by it, and give what was measured."""
        if self.latency is None:
            return {}
        pruned = self._without(parameters, gone)
        estimated, measured = self.watch(pruned)["latency"], self.latency.measure(pruned)
        self.corrections["latency"] = (estimated, measured)
        return {"latency": measured}

    @torch.no_grad()
    def correct_near_aim(self, parameters: Mapping[str, Tensor]) -> None:
        """Correct the estimates by what is left of the latency where all sets are cut alike, near the aim.

        What a cut makes of the time goes by steps (of whole blocks of channels), and some are close to the
        whole network; groups that were chosen by uncorrected estimates on the way could not come back.
        """
        if self.aim is None:
            return
        whole = [torch.zeros(group_set.count, dtype=torch.bool) for group_set in self.sets]
        living = self._living(whole)
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            share = (low + high) / 2
            left = self.watch(self._without(parameters, _cut_alike(whole, living, share)))["latency"]
            low, high = (share, high) if left > self.aim else (low, share)
        self.correct(parameters, _cut_alike(whole, living, low))

    @torch.no_grad()
    def settle(self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor]) -> None:
        """Put what norms and biases make of filters that go for good to what it will be."""
        if self.model is None:
            return
        own = {**dict(self.model.named_buffers(remove_duplicate=False)), **parameters}
        for name, value in settled(self.norms, {**own, **self._without(parameters, gone)}).items():
            own[name].copy_(value)

    def _without(self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor]) -> dict[str, Tensor]:
        masks = zero_masks(parameters, self.sets, gone)
        return {
            name: value.detach().masked_fill(masks[name], 0) if name in masks else value.detach()
            for name, value in parameters.items()
        }

    def refresh(self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor], position: float) -> None:
        """Reckon anew what one group of each set costs, a few times in a run.

        A latency is measured with it: at the start, and where the run is long enough for that, before the
        end; the choice measures anyway.

        Args:
            parameters: by name.
            gone: groups that are on their way out, per set.
            position: share of the run that is done.
        """
        due = int(position * _REFRESHES)
        if due <= self._refreshed:
            return
        if self._refreshed < 0:
            self.correct_near_aim(parameters)
        self._refreshed = due
        if 0 < due < _REFRESHES and self.latency is not None and self.latency.affordable(position):
            self.correct(parameters, gone)
        whole = self.left(parameters, gone)
        self.costs = {name: [] for name in whole}
        for bundles in self._living(gone):
            without, removed = self._without_some(parameters, gone, bundles)
            for name, value in whole.items():
                self.costs[name].append(max(0.0, value - without[name]) / removed)

    def burden(self, number: int, target: Mapping[str, float], left: Mapping[str, float]) -> float:
        """What one group of a set costs, in shares of what has to go, as a part of its bundle.

        Of several targets each counts by how much is above its limit: that is how fast the group's going
        lessens the sum of squares of what is above. A target that is nearly met, or that asks for little,
        so steers little, one that is met not at all, and none comes in or goes out with a jump. A single
        target counts whole, met or not.

        Args:
            number: of the set.
            target: name -> fraction that may be left.
            left: name -> fraction that is left now.
        """
        above = {name: max(0.0, left[name] - limit) for name, limit in target.items()}
        total = sum(above.values())
        weights = {name: value / total if total > 0 else 1.0 for name, value in above.items()}
        whole = sum(weights[name] * (1 - limit) for name, limit in target.items())
        return sum(weights[name] * self.costs[name][number] for name in target) / max(whole, 1e-6)

    def saving(self, name: str, bundle: Bundle) -> float:
        """How much of a fraction a bundle is, by the costs of its groups."""
        return sum(self.costs[name][number] for number, _ in bundle)

    def state(self) -> dict[str, Any]:
        """All that changes during a run."""
        return {
            "costs": self.costs,
            "refreshed": self._refreshed,
            "corrections": self.corrections,
            "latency": None if self.latency is None else self.latency.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.costs, self._refreshed = dict(state["costs"]), state["refreshed"]
        self.corrections = {name: (pair[0], pair[1]) for name, pair in state["corrections"].items()}
        if self.latency is not None:
            self.latency.restore(state["latency"])

    def _living(self, gone: Sequence[Tensor]) -> list[list[Bundle]]:
        """By set, the bundles with a group of it that is still there."""
        unpriced = [torch.zeros(group_set.count) for group_set in self.sets]
        there = [set(torch.nonzero(~mask).reshape(-1).tolist()) for mask in gone]
        living: list[list[Bundle]] = [[] for _ in self.sets]
        for bundle in self.bundler.bundles(unpriced, gone):
            for number in dict.fromkeys(number for number, group in bundle if group in there[number]):
                living[number].append(bundle)
        return living

    def _without_some(
        self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor], bundles: Sequence[Bundle]
    ) -> tuple[dict[str, float], int]:
        """What would be left without a quarter of the bundles of a set, and how many groups those have.

        One group alone may save nothing: under a padded convolution the first constant channel stays and
        carries the constants of all that follow. Nor may some groups of a bundle, so whole ones go.
        """
        marked = [mask.clone() for mask in gone]
        taken = bundles[: max(1, len(bundles) // 4)]
        for bundle in taken:
            for number, group in bundle:
                marked[number][group] = True
        # those already gone count too, as they do where a bundle is priced
        return self.left(parameters, marked), max(1, sum(map(len, taken)))


def corrected(value: float, estimated: float, measured: float) -> float:
    """An estimate, corrected by what was measured where ``estimated`` had been estimated.

    Linear between the whole network, which is 1 by either, and the place of the measurement; beyond it, or
    where that place is hardly off the whole, in proportion.
    """
    if value <= estimated or estimated >= _HARDLY_LESS:
        return value * measured / max(estimated, 1e-9)
    return measured + (1 - measured) * (value - estimated) / (1 - estimated)


def _cut_alike(whole: Sequence[Tensor], living: Sequence[Sequence[Bundle]], share: float) -> list[Tensor]:
    """Masks of a share of every set's bundles; one of each set stays."""
    gone = [mask.clone() for mask in whole]
    for bundles in living:
        for bundle in bundles[: min(round(share * len(bundles)), len(bundles) - 1)]:
            for number, group in bundle:
                gone[number][group] = True
    return gone
