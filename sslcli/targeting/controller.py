"""The controller: finds, during one run, the strengths that lead to a target.

At every look it estimates what each group is worth, sum over its elements of (w dL/dw)^2 (where a filter or
channel lies in several layers, the roots of their sums are added and squared). At every adjustment it (1)
moves the fraction that may be left along a line from 1 to the target, (2) slates the groups that are worth
least for what they cost until the rest would fit, and (3) gives each slated group the strength that takes
its norm to zero in a fixed number of steps. A group that the loss defends regains worth and is let go for
another. Where the metric has fallen too far, the line is followed more slowly. Groups that save something
only together, around grouped convolutions, are weighed and slated as one (``bundles``).

Reference:
    Molchanov et al., "Importance estimation for neural network pruning", 2019 (worth from first-order terms);
    Wang et al., "Neural pruning via growing regularization", 2021 (strengths that grow on slated groups).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sslcli.sparsity.bound import BoundSet, BoundView, bind, group_norms, group_zeros, summed_norms
from sslcli.sparsity.penalty import WeightedSet
from sslcli.targeting.budget import Budget, goes_further
from sslcli.targeting.bundles import Bundle, with_bundles
from sslcli.targeting.left import usable
from sslcli.targeting.sensitivity import Probe
from sslcli.targeting.target import Target
from sslcli.training.control import Signs

_COLLECTED = ("filter", "channel", "hidden")  # structures whose layers mostly write into one sum, or read one
_LOOKS = 10  # per adjustment
_MEMORY = 0.95  # of a group's worth, from look to look
_ARRIVAL = 0.6  # share of the penalised phase after which all that must go is slated
_TRUSTED = 4.0  # by how much a measured loss may change the worth of a set, either way
_SPARED = 10  # groups of the last choice that are looked at once more
_NEARLY = 0.8  # share of what is to save that a group must save by its estimated cost to be tried
_SLOWED = 0.3  # pace while the metric is too low; strengths do not grow meanwhile
_LATEST = 0.9  # share of the penalised phase after which all is slated, however low the metric was
_KILL = 2.0  # adjustments that a slated group survives
_LOYALTY = 0.5  # factor of the price of groups that are slated already, so that few change sides
_NEAR = 0.8  # of a limit; where a misled choice leaves less of what was measured, it is made once more
_AS_EXPECTED = 0.9  # of an estimate, from which on a measurement agrees with it
_CORRECTIONS = 5  # measurements of the last choice at most
_GROWTH = 1.25  # of the strength of a slated group that still lives, at each adjustment


@dataclass
class Group:
    """The controller's notes on one group set; one entry a group."""

    worth: Tensor
    slated: Tensor
    limits: Tensor  # how much of its norm each slated group loses per step


class TargetController:
    """Moves the strengths so that what is left meets a target.

    Args:
        weighted: the sets that may lose groups; a set's strength is its share: twice the strength, twice as
            ready to go. Sets of strength 0 are left whole.
        target: what may be left and lost.
        budget: what is left without given groups, and what each group costs.
        steps: of the penalised phase.
        series: weights of depthwise convolutions, which pass on what another layer of their groups wrote.
        probes: what the network loses without some groups of each set, which weighs the worth of all of them.
    """

    def __init__(
        self,
        weighted: Sequence[WeightedSet],
        target: Target,
        budget: Budget,
        steps: int,
        series: Collection[str] = (),
        probes: Sequence[Probe | None] = (),
    ) -> None:
        self.series = frozenset(series)
        self.weighted, self.target, self.budget = list(weighted), target, budget
        self.every = max(1, min(max(20, steps // 60), steps // 20))
        self.look_every = max(1, self.every // _LOOKS)
        self.sets = [w.group_set for w in weighted]
        self.notes = [
            Group(torch.zeros(s.count), torch.zeros(s.count, dtype=torch.bool), torch.zeros(s.count))
            for s in self.sets
        ]
        self.clock = 0.0
        self.probes = list(probes)
        self.factors = [1.0] * len(self.sets)
        self._weighed = not self.probes
        self._position = 0.0
        self._step_size = 1.0

    @torch.no_grad()
    def look(self, parameters: Mapping[str, Tensor]) -> None:
        """Update the worth of every group from the gradients of a step, unless some overflowed."""
        names = {view.name for group_set in self.sets for view in group_set.views}
        products = {
            name: parameters[name] * gradient
            for name in names
            if (gradient := parameters[name].grad) is not None
        }
        looks = [
            self._seen(bind(products, group_set))
            if all(view.name in products for view in group_set.views)
            else None
            for group_set in self.sets
        ]
        if not all(seen is None or bool(seen.isfinite().all()) for seen in looks):
            return  # all sets see the same steps, or their worth would not compare
        for seen, note in zip(looks, self.notes, strict=True):
            if seen is not None:
                note.worth.mul_(_MEMORY).add_(seen, alpha=1 - _MEMORY)

    def _seen(self, products: BoundSet) -> Tensor:
        """The worth of every group of a set by one step, (count,), from its w dL/dw.

        Layers that one sum collects are missed together: what they do adds up, not the squares of it.
        """
        group_set = products.group_set
        if group_set.structure not in _COLLECTED:
            return group_norms(products).square().cpu()
        beside: list[BoundView] = []
        behind: list[BoundView] = []
        for view, bound in zip(group_set.views, products.views, strict=True):
            (behind if view.name in self.series else beside).append(bound)
        seen = torch.zeros(group_set.count)
        if beside:
            seen = seen + summed_norms(BoundSet(group_set, tuple(beside))).square().cpu()
        if behind:
            seen = seen + group_norms(BoundSet(group_set, tuple(behind))).square().cpu()
        return seen

    def adjust(self, signs: Signs) -> list[WeightedSet]:
        """Slate groups for the place of the run, and give the penalty that removes them."""
        slowed = self._advance(signs)
        if signs.step >= self.every:
            if not self._weighed:
                self.factors, self._weighed = weighed(self.notes, self.probes), True
            allowed = {
                name: 1 - (1 - limit) * min(1.0, self.clock / _ARRIVAL)
                for name, limit in self.target.left.items()
            }
            slated = [note.slated for note in self.notes]
            self.budget.refresh(signs.parameters, slated, self.clock, signs.position)
            self._slate(signs.parameters, allowed)
            self._press(signs, 1.0 if slowed else _GROWTH)
        return self.penalties()

    def penalties(self) -> list[WeightedSet]:
        """Each set with the mean strength of its slated groups, and their shares of it."""
        return [self._penalty(w, note) for w, note in zip(self.weighted, self.notes, strict=True)]

    def choose(self, parameters: Mapping[str, Tensor], step: int) -> list[Tensor]:
        """The groups that go for good: those that are zero, and the least worthy until the target is met.

        Where part of the target is only estimated, the choice is measured and made again by it, once too
        where far more went than the estimate said; of those that all missed, the nearest is taken.
        """
        chosen = self._chosen(parameters)
        self.budget.settle(parameters, chosen)
        return chosen

    def _chosen(self, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        missed: list[tuple[float, list[Tensor]]] = []
        met: list[tuple[float, list[Tensor]]] = []
        for number in range(_CORRECTIONS):
            chosen = self._fewest(parameters)
            if any(_same(chosen, earlier) for _, earlier in (*met, *missed)):
                break  # nothing further can go, or nothing can stay
            # that there is a second try says that what was measured of other cuts before misleads
            places = self.budget.correct(parameters, chosen, afresh=number == 1)
            ratio = max((found / self.target.left[name] for name, (_, found) in places.items()), default=1.0)
            (met if ratio <= 1 else missed).append((ratio, chosen))
            misled = any(found < _AS_EXPECTED * expected for expected, found in places.values())
            # some could stay; where the estimate was right, nearly the same would be chosen again
            spare = ratio < _NEAR and misled and goes_further(chosen, self._dead(parameters))
            if met and (len(met) > 1 or not spare):
                break
        if met:
            return max(met, key=lambda way: way[0])[1]
        return min(missed, key=lambda way: way[0])[1]

    def lacks(self, parameters: Mapping[str, Tensor], step: int) -> bool:
        """Whether the zero groups no longer meet what is counted of the target.

        Norms go on learning while zero groups are held, so what a removed filter leaves behind, and with it
        what pruning saves, moves a little after a choice. Latency is measured, so it is judged at the end.
        """
        left = self.budget.now(parameters)
        return any(left[name] > limit for name, limit in self.target.left.items() if name != "latency")

    def _fewest(self, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        """The dead groups, and the fewest further ones that meet the target, or all where they do not.

        Where one of several targets is met before the others, the rest is ordered anew without it. Groups
        without which no path is left stay, and others are looked for in their place.
        """
        gone = dead = self._dead(parameters)
        self.budget.refresh(parameters, dead, 1.0)
        chosen: list[Bundle] = []
        needed: set[Bundle] = set()
        left = self.budget.left(parameters, gone)
        while above := _above(left, self.target.left):
            order = [bundle for bundle in self._order(gone, left) if bundle not in needed]
            low, high = 0, len(order)
            while low < high:  # fewest further groups that meet one target more
                middle = (low + high) // 2
                left = self.budget.left(parameters, with_bundles(gone, order[:middle]))
                if _above(left, self.target.left) < above:
                    high = middle
                else:
                    low = middle + 1
            left = self.budget.left(parameters, with_bundles(gone, order[:low]))
            stuck = usable(left) and not _above(left, self.target.left) < above
            if not usable(left):  # one fewer does not meet the target, so leaves a path
                low -= 1
                needed.add(order[low])
                left = self.budget.left(parameters, with_bundles(gone, order[:low]))
            chosen, gone = chosen + order[:low], with_bundles(gone, order[:low])
            if stuck:
                break
        return with_bundles(dead, self._least(parameters, dead, chosen))

    def state(self) -> dict[str, Any]:
        """All that changes during a run."""
        return {
            "notes": [vars(note) for note in self.notes],
            "clock": self.clock,
            "factors": list(self.factors),
            "weighed": self._weighed,
            "position": self._position,
            "step_size": self._step_size,
            "budget": self.budget.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.notes = [Group(**note) for note in state["notes"]]
        self.clock, self._position = state["clock"], state["position"]
        self.factors, self._weighed = list(state["factors"]), state["weighed"]
        self._step_size = state["step_size"]
        self.budget.restore(state["budget"])

    def _advance(self, signs: Signs) -> bool:
        """Move the clock; whether it goes slowly since the metric has fallen too far."""
        slowed = False
        if signs.metrics and self.target.max_drop is not None:
            # fine-tuning recovers part of a drop, so more than the limit is allowed on the way
            slowed = self.target.drop(signs.metrics) > 2 * self.target.max_drop + 1
        self.clock += (_SLOWED if slowed else 1.0) * (signs.position - self._position)
        self.clock = max(self.clock, signs.position * _ARRIVAL / _LATEST)
        self._position, self._step_size = signs.position, signs.step_size
        return slowed

    def _least(
        self, parameters: Mapping[str, Tensor], dead: Sequence[Tensor], chosen: list[Bundle]
    ) -> list[Bundle]:
        """What is worth least of two ways to go no further than need be.

        The last of ``chosen`` is cheap for what it saves, which may be far more than is still to save:
        one less costly can do the rest in its place, or others can stay since it goes.
        """
        values = self._values()
        ways = [self._spared(parameters, dead, chosen)]
        swapped = self._swapped(parameters, dead, chosen, values)
        if swapped != chosen:
            ways.append(self._spared(parameters, dead, swapped))
        return min(ways, key=lambda way: sum(_price(bundle, values) for bundle in way))

    def _swapped(
        self,
        parameters: Mapping[str, Tensor],
        dead: Sequence[Tensor],
        chosen: list[Bundle],
        values: Sequence[Sequence[float]],
    ) -> list[Bundle]:
        """With the last replaced by the least worthy one that does the rest too."""
        if not chosen or not self._meets(parameters, with_bundles(dead, chosen)):
            return chosen
        *others, last = chosen
        gone = with_bundles(dead, others)
        left = self.budget.left(parameters, gone)
        price = _price(last, values)
        excess = {name: left[name] - limit for name, limit in self.target.left.items()}
        enough = [
            bundle
            for bundle in self._order(gone, left)
            if _price(bundle, values) < price
            and all(self.budget.saving(name, bundle) >= _NEARLY * value for name, value in excess.items())
        ]
        for bundle in sorted(enough, key=lambda bundle: _price(bundle, values))[:_SPARED]:
            if self._meets(parameters, with_bundles(gone, [bundle])):
                return [*others, bundle]
        return chosen

    def _prices(self) -> list[Tensor]:
        """What the loss would miss in each group, by set, in shares: twice the strength, half the price."""
        return [
            torch.where(note.slated, _LOYALTY, 1.0) * note.worth * factor / weighted.strength
            if weighted.strength > 0
            else torch.zeros_like(note.worth)
            for weighted, note, factor in zip(self.weighted, self.notes, self.factors, strict=True)
        ]

    def _values(self) -> list[list[float]]:
        return [price.tolist() for price in self._prices()]

    def _spared(
        self, parameters: Mapping[str, Tensor], dead: Sequence[Tensor], chosen: list[Bundle]
    ) -> list[Bundle]:
        """Without the worthiest that need not go, since a cheaper one did the rest."""
        for bundle in chosen[::-1][1 : _SPARED + 1]:
            fewer = [other for other in chosen if other != bundle]
            if self._meets(parameters, with_bundles(dead, fewer)):
                chosen = fewer
        return chosen

    def _meets(self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor]) -> bool:
        left = self.budget.left(parameters, gone)
        return usable(left) and not _above(left, self.target.left)

    def _slate(self, parameters: Mapping[str, Tensor], allowed: Mapping[str, float]) -> None:
        """Choose anew what has to go for ``allowed``; costs are linear, so errors are made good next time.

        As in the last choice, groups without which no path is left stay, and others go in their place.
        """
        gone = self._dead(parameters)
        left = self.budget.left(parameters, gone)
        needed: set[Bundle] = set()
        while _above(left, allowed):
            chosen: list[Bundle] = []
            lefts, before = [left], _above(left, self.target.left)
            for bundle in self._order(gone, left):
                if not _above(left, allowed) or _above(left, self.target.left) != before:
                    break  # enough for now, or what is left to do is ordered anew
                if bundle not in needed:
                    chosen.append(bundle)
                    left = {name: value - self.budget.saving(name, bundle) for name, value in left.items()}
                    lefts.append(left)
            if not chosen:
                break
            longest = self._leaving_a_path(parameters, gone, chosen)
            needed.update(chosen[longest : longest + 1])
            gone, left = with_bundles(gone, chosen[:longest]), lefts[longest]
        for note, slated in zip(self.notes, gone, strict=True):
            note.slated = slated

    def _leaving_a_path(
        self, parameters: Mapping[str, Tensor], gone: Sequence[Tensor], chosen: Sequence[Bundle]
    ) -> int:
        """How many of ``chosen``, the first ones, may go so that a path is left."""
        if usable(self.budget.left(parameters, with_bundles(gone, chosen))):
            return len(chosen)
        low, high = 0, len(chosen)  # without `low` of them there is a path, without `high` none
        while high - low > 1:
            middle = (low + high) // 2
            if usable(self.budget.left(parameters, with_bundles(gone, chosen[:middle]))):
                low = middle
            else:
                high = middle
        return low

    def _press(self, signs: Signs, growth: float) -> None:
        """Give slated groups the loss of norm per step that kills them in time, and old ones ``growth``."""
        for group_set, note in zip(self.sets, self.notes, strict=True):
            norms = group_norms(bind(signs.parameters, group_set)).float().cpu()
            needed = norms / (_KILL * self.every)
            grown = torch.where(norms > 0, note.limits * growth, note.limits)
            note.limits = torch.where(note.slated, torch.maximum(needed, grown), 0.0)

    def _penalty(self, weighted: WeightedSet, note: Group) -> WeightedSet:
        sizes = weighted.group_set.sizes.float()
        scale = sizes.sqrt() if weighted.size_weights else torch.ones_like(sizes)
        strengths = note.limits / (scale * max(self._step_size, 1e-12))
        mean = float(strengths[note.slated].mean()) if bool(note.slated.any()) else 0.0
        return replace(weighted, strength=mean, shares=strengths / mean if mean > 0 else None)

    def _order(self, gone: Sequence[Tensor], left: Mapping[str, float]) -> list[Bundle]:
        """Bundles that are not all ``gone`` and may go, the least worthy for their cost first.

        Sets of strength 0 stay whole, and of any other a group stays, so that no layer goes entirely.
        """
        burdens = [
            self.budget.burden(number, self.target.left, left) * (weighted.strength > 0)
            for number, weighted in enumerate(self.weighted)
        ]
        prices = self._prices()
        values, away = [price.tolist() for price in prices], [mask.tolist() for mask in gone]
        entries: list[tuple[float, Bundle]] = []
        for bundle in self.budget.bundler.bundles(prices, gone):
            there = [(number, group) for number, group in bundle if not away[number][group]]
            cost = sum(burdens[number] for number, _ in bundle)
            if there and cost > 0:
                entries.append((_price(there, values) / cost, bundle))
        return self._without_the_last([bundle for _, bundle in sorted(entries)], away)

    def _without_the_last(self, order: Sequence[Bundle], away: Sequence[Sequence[bool]]) -> list[Bundle]:
        """Without bundles that would take what is then left of a set."""
        room = [
            len(each) if group_set.structure == "depth" else len(each) - sum(each) - 1
            for group_set, each in zip(self.sets, away, strict=True)
        ]
        kept = []
        for bundle in order:
            taken: dict[int, int] = {}
            for number, group in bundle:
                taken[number] = taken.get(number, 0) + (not away[number][group])
            if all(count <= room[number] for number, count in taken.items()):
                kept.append(bundle)
                for number, count in taken.items():
                    room[number] -= count
        return kept

    def _dead(self, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        return [group_zeros(bind(parameters, group_set)).cpu() for group_set in self.sets]


def weighed(notes: Sequence[Group], probes: Sequence[Probe | None]) -> list[float]:
    """By what the worth of each set's groups is multiplied, so that it is to scale with what was measured.

    The rise of the loss over the worth of what went, with a mean (of logarithms) of 1 and within a factor of
    ``_TRUSTED``; 1 where nothing was measured. A loss that did not rise stands for the least factor, one that
    is infinite for the greatest.
    """
    ratios = [
        max(found.rise, 0.0) / float(note.worth[found.gone].sum())
        if found is not None and float(note.worth[found.gone].sum()) > 0
        else None
        for note, found in zip(notes, probes, strict=True)
    ]
    logs = [math.log(ratio) for ratio in ratios if ratio and math.isfinite(ratio)]
    if not logs and math.inf not in ratios:
        return [1.0] * len(ratios)
    mean = math.exp(sum(logs) / max(len(logs), 1))
    return [1.0 if ratio is None else min(max(ratio / mean, 1 / _TRUSTED), _TRUSTED) for ratio in ratios]


def _price(bundle: Sequence[tuple[int, int]], values: Sequence[Sequence[float]]) -> float:
    """What the loss would miss without a bundle."""
    return sum(values[number][group] for number, group in bundle)


def _same(masks: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(map(torch.equal, masks, others))


def _above(left: Mapping[str, float], limits: Mapping[str, float]) -> set[str]:
    """What is left more of than may be."""
    return {name for name, limit in limits.items() if left[name] > limit}
