"""What is left of a network without given groups, and what one group more would save."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sslcli.graph.groups import GroupSet
from sslcli.sparsity.zeros import zero_groups, zero_masks
from sslcli.targeting.bundles import Bundle, Bundler, with_bundles
from sslcli.targeting.latency import Latency
from sslcli.targeting.left import Watch, usable
from sslcli.targeting.norms import Norm, settled

_REFRESHES = 4  # in a run; between them costs drift as their layers' other sides shrink
_HALVINGS = 8
_FIRST = 3  # measurements at the start at most
_CLOSE = 0.02  # estimates that are of one place
_SPREAD = ("shape", "filter2d")  # whose groups in order would be whole channels or filters

Place = tuple[float, float]  # what was estimated and what was measured
_Sample = tuple[int, Mapping[str, float]]  # how many groups go, and the estimates without them


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
        corrections: name of a fraction -> the places where it was measured, for ``corrected``.
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
        self.corrections: dict[str, list[Place]] = {}
        self._refreshed, self._priced = -1, False
        self._whole: dict[str, float] = {}
        self._samples: list[list[_Sample]] = []

    @torch.no_grad()
    def left(self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor]) -> dict[str, float]:
        """The fractions that would be left without the groups ``gone`` (a bool mask per set)."""
        return self.now(self._without(parameters, gone))

    def now(self, parameters: Mapping[str, Tensor]) -> dict[str, float]:
        """The fractions that pruning now would leave, estimates corrected."""
        return self._corrected(self.watch(parameters))

    def _corrected(self, found: Mapping[str, float]) -> dict[str, float]:
        return {
            name: corrected(value, self.corrections[name]) if name in self.corrections else value
            for name, value in found.items()
        }

    @torch.no_grad()
    def correct(
        self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor], *, afresh: bool = False
    ) -> dict[str, Place]:
        """Measure what is only estimated, and correct the estimates by it.

        Args:
            parameters: by name.
            gone: groups that are left out, a bool mask per set.
            afresh: whether to forget what was measured of other cuts.

        Returns:
            By name, the estimate, corrected as it was until now, and what was measured; nothing where no
            path is left that could be.
        """
        if self.latency is None:
            return {}
        pruned = self._without(parameters, gone)
        left = self.watch(pruned)
        if not usable(left):
            return {}
        estimate = {"latency": left["latency"]}
        expected, measured = self._corrected(estimate)["latency"], self.latency.measure(pruned)
        known = [] if afresh else self.corrections.get("latency", [])
        self.corrections["latency"] = agreeing(known, (estimate["latency"], measured))
        self._priced = False
        return {"latency": (expected, measured)}

    @torch.no_grad()
    def correct_near_aim(self, parameters: Mapping[str, Tensor]) -> None:
        """Correct the estimates by what is left of the latency where all sets are cut alike, near the aim.

        What a cut makes of the time goes by steps (of whole blocks of channels), and some are close to the
        whole network; groups that were chosen by uncorrected estimates on the way could not come back.
        """
        if self.aim is None:
            return
        whole = [mask.cpu() for mask in zero_groups(parameters, self.sets)]
        living = [
            _spread(bundles) if group_set.structure in _SPREAD else bundles
            for group_set, bundles in zip(self.sets, self._living(whole), strict=True)
        ]
        for _ in range(_FIRST):
            cut = self._least_cut_alike(parameters, whole, living, self.aim)
            if cut is None or self.correct(parameters, cut)["latency"][1] <= self.aim:
                break

    def _least_cut_alike(
        self,
        parameters: Mapping[str, Tensor],
        whole: Sequence[Tensor],
        living: Sequence[Sequence[Bundle]],
        aim: float,
    ) -> list[Tensor] | None:
        """The least cut alike of all sets that meets the aim by the estimates; None where there is none."""
        low, high, found = 0.0, 1.0, None
        for _ in range(_HALVINGS):
            share = (low + high) / 2
            cut = _cut_alike(whole, living, share)
            left = self.left(parameters, cut)
            if left["latency"] > aim:
                low = share
            else:
                high = share
                if usable(left) and goes_further(cut, whole):
                    found = cut
        return found

    @torch.no_grad()
    def settle(self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor]) -> None:
        """Put what norms and biases make of filters that go for good to what it will be."""
        self._samples = []  # of norms and groups as they were; a continued run has none either
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

    def refresh(
        self,
        parameters: Mapping[str, Tensor],
        gone: Sequence[Tensor],
        clock: float,
        position: float | None = None,
    ) -> None:
        """Reckon anew what one group of each set costs, a few times in a run.

        A latency is measured with it: at the start, and where the run is long enough for that, before the
        end; the choice measures anyway.

        Args:
            parameters: by name.
            gone: groups that are on their way out, per set.
            clock: how far on the way to the target the run is, 0 to 1.
            position: share of the penalised part that is done; default: that of the way.
        """
        due = int(clock * _REFRESHES)
        if due <= self._refreshed:
            if not self._priced:
                self._price(parameters, gone)
            return
        if self._refreshed < 0:
            self.correct_near_aim(parameters)
        self._refreshed = due
        position = clock if position is None else position
        if 0 < due < _REFRESHES and self.latency is not None and self.latency.affordable(position):
            self.correct(parameters, gone)
        self._samples = []
        self._price(parameters, gone)

    def _price(self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor]) -> None:
        """Reckon the costs by the corrections as they are; only what is cut anew is estimated anew."""
        if not self._samples:
            self._whole = dict(self.watch(self._without(parameters, gone)))
            self._samples = [
                self._sample(parameters, gone, bundles) if usable(self._whole) else []
                for bundles in self._living(gone)
            ]
        whole = self._corrected(self._whole)
        self.costs = {name: [] for name in whole}
        for samples in self._samples:
            savings = [
                {name: (value - left[name]) / removed for name, value in whole.items()}
                for removed, left in ((removed, self._corrected(left)) for removed, left in samples)
            ]
            for name in whole:
                # a latency goes by steps, which a quarter of a set may lie before
                tried = savings if name == "latency" else savings[:1]
                self.costs[name].append(max([0.0, *(saving[name] for saving in tried)]))
        self._priced = True

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
            "priced": self._priced,
            "corrections": self.corrections,
            "latency": None if self.latency is None else self.latency.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.costs = dict(state["costs"])
        self._refreshed, self._priced = state["refreshed"], state["priced"]
        self.corrections = {
            name: [(place[0], place[1]) for place in places] for name, places in state["corrections"].items()
        }
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

    def _sample(
        self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor], bundles: Sequence[Bundle]
    ) -> list[_Sample]:
        """How many groups a part of a set's bundles has, and the estimates without it; a quarter first.

        One group alone may save nothing: under a padded convolution the first constant channel stays and
        carries the constants of all that follow. Nor may some groups of a bundle, so whole ones go.
        Where that takes every path, nothing was saved by it: fewer are tried, down to single ones.
        """
        quarter = max(1, int(0.25 * len(bundles)))
        first: _Sample | None = None
        while first is None and quarter:
            first = self._sampled(parameters, gone, bundles[:quarter])
            quarter //= 2
        singles = iter(bundles[1:])
        while first is None and (bundle := next(singles, None)) is not None:
            first = self._sampled(parameters, gone, [bundle])
        shares = (0.5, 0.75) if self.latency is not None else ()
        more = [
            self._sampled(parameters, gone, bundles[: max(1, int(share * len(bundles)))]) for share in shares
        ]
        return [sample for sample in (first, *more) if sample is not None]

    def _sampled(
        self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor], taken: Sequence[Bundle]
    ) -> _Sample | None:
        """How many groups some bundles have and the estimates without them; None where no path is left."""
        left = self.watch(self._without(parameters, with_bundles(gone, taken)))
        # those already gone count too, as they do where a bundle is priced
        return (max(1, sum(map(len, taken))), left) if usable(left) else None


def goes_further(masks: Sequence[Tensor], gone: Sequence[Tensor]) -> bool:
    """Whether ``masks`` have a group that is not ``gone``."""
    return any(bool((mask & ~before).any()) for mask, before in zip(masks, gone, strict=True))


def agreeing(known: Sequence[Place], new: Place) -> list[Place]:
    """A new place and those of the known ones that agree with it, by their estimates.

    What was measured of other cuts tells of the course between; but where less is left by the estimate there
    must be less by the clock too, by half of what would be in proportion at least, or nothing seems to be
    saved by going on. So old places that are close by, or that would make the course flat, are forgotten.
    """
    slope = new[1] / max(new[0], 1e-9) / 2
    kept = [
        place
        for place in known
        if abs(place[0] - new[0]) >= _CLOSE and (place[1] - new[1]) / (place[0] - new[0]) >= slope
    ]
    return sorted([*kept, new])


def corrected(value: float, places: Sequence[Place]) -> float:
    """An estimate, corrected by what was measured of cuts of other estimates.

    Linear between the places, and from the last to the whole network, which is 1 by either, where that agrees
    with them; beyond them in proportion.

    Args:
        value: the estimate, as a fraction of the whole.
        places: (estimated, measured), ascending; not empty.
    """
    known = [*places[:-1], *agreeing([(1.0, 1.0)], places[-1])]
    right = bisect_left(known, (value, 0.0))
    if right in (0, len(known)):
        estimated, measured = known[min(right, len(known) - 1)]
        return value * measured / max(estimated, 1e-9)
    (left, low), (end, high) = known[right - 1], known[right]
    return low + (high - low) * (value - left) / (end - left)


def _spread(bundles: Sequence[Bundle]) -> list[Bundle]:
    """Bundles in an order in which no layer, channel or place comes first, always the same."""
    order = torch.randperm(len(bundles), generator=torch.Generator().manual_seed(0))
    return [bundles[number] for number in order.tolist()]


def _cut_alike(whole: Sequence[Tensor], living: Sequence[Sequence[Bundle]], share: float) -> list[Tensor]:
    """Masks of a share of every set's bundles; one of each set stays."""
    gone = list(whole)
    for bundles in living:
        gone = with_bundles(gone, bundles[: min(round(share * len(bundles)), len(bundles) - 1)])
    return gone
