"""Choose the smallest groups of every layer, until a share of them is gone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sslcli.errors import UsageError
from sslcli.graph.groups import GroupSet, find_groups, matches
from sslcli.graph.readers import Reader, readers
from sslcli.graph.slots import Structure
from sslcli.surgery.candidates import importance
from sslcli.surgery.choose import Limits, take_filters
from sslcli.surgery.cut import cut
from sslcli.surgery.measure import group_rms
from sslcli.surgery.zero import Zeroing

# The coarse ones first: what they take along of the finer ones counts as gone.
SHARED = ("depth", "filter", "head", "filter2d", "shape")

Shares = Mapping[str, "float | Mapping[str, float]"]


def take_shares(
    structure: Structure,
    zeroing: Zeroing,
    shares: Shares,
    limits: Limits,
    scores: Mapping[str, Tensor] | None = None,
    *,
    fold: bool = True,
) -> None:
    """Set the smallest groups to zero, layer by layer, until the share that is asked for is gone.

    Of n groups floor(share x n) are then gone: those that are zero, those that went with what was chosen
    before (the columns that read a removed filter), and of the others those of the least root mean square.
    Filters go in the sets that every constraint allows, one of each group of a grouped convolution, and
    layers of a residual sum together. A residual branch is the one depth group of its place, so all that
    match share one count.

    Args:
        structure: the network.
        zeroing: weights to work on; what is chosen is set to zero there and noted.
        shares: by structure a fraction in (0, 1), or such fractions by glob, of which the last that matches
            a layer holds.
        limits: what may not be taken; layers that are kept are left as they are.
        scores: importance of every element by parameter, for filters; default: the size of the group.
        fold: let later biases take up the constants of what goes.

    Raises:
        UsageError: no such structure, a fraction outside (0, 1), a glob that matches nothing, or a share
            of so few groups that it is none.
    """
    for kind, share in shares.items():
        _check(kind, share)
    for kind in (kind for kind in SHARED if kind in shares):
        share = shares[kind]
        by_glob = share if isinstance(share, Mapping) else {"*": share}
        found = find_groups(structure, kind)
        fractions = _fractions(kind, found, by_glob, limits)
        if kind == "filter":
            layers = readers(structure)
            if scores is None:
                worth = _sizes(structure, layers, found, zeroing.weights)
            else:
                worth = importance(structure, layers, zeroing.weights, scores)
            take_filters(structure, zeroing, by_glob, limits, worth, fold=fold)
            continue
        left = _what_is_left(structure, zeroing.weights, fold)
        pools = [[number] for number in fractions] if kind != "depth" else _branches(found, fractions)
        for pool in pools:
            _take([found[number] for number in pool], fractions[pool[0]][1], zeroing, left)


def _check(kind: str, share: object) -> None:
    if kind not in SHARED:
        raise UsageError(f"there are no shares of '{kind}'", f"there are of {', '.join(SHARED)}")
    for fraction in share.values() if isinstance(share, Mapping) else (share,):
        if not isinstance(fraction, int | float) or not 0 < fraction < 1:
            raise UsageError(
                f"the share of {kind} groups is {fraction}",
                "give more than 0 and less than 1, since something has to stay",
            )


def _fractions(
    kind: str, found: Sequence[GroupSet], by_glob: Mapping[str, float], limits: Limits
) -> dict[int, tuple[str, float]]:
    """By the number of a set the glob that holds for it, and its fraction; without sets that are kept."""
    held: dict[int, tuple[str, float]] = {}
    for glob, fraction in by_glob.items():
        hit = [number for number, group_set in enumerate(found) if matches(group_set.label, glob)]
        if not hit:
            labels = ", ".join(group_set.label for group_set in found[:8])
            hint = f"those with any are {labels}" if found else "the network has none"
            raise UsageError(f"the glob '{glob}' matches no layer with {kind} groups", hint)
        held |= dict.fromkeys(hit, (glob, fraction))
        counts = [found[n].count for n in hit if not any(matches(found[n].label, k) for k in limits.keep)]
        if not counts:
            what = f"the share of {kind} groups of '{glob}' is of layers that are kept"
            raise UsageError(what, "leave one of them out")
        most = sum(counts) if kind == "depth" else max(counts)
        if _number(fraction, most) == 0:
            what = f"the share {fraction:g} of the {kind} groups of '{glob}' is none of at most {most}"
            raise UsageError(what, f"give {1 / most:.2g} or more" if most > 1 else "leave it out")
    return {
        number: entry
        for number, entry in sorted(held.items())
        if not any(matches(found[number].label, kept) for kept in limits.keep)
    }


def _number(fraction: float, count: int) -> int:
    """How many of ``count`` groups a fraction is; never all of them."""
    return min(math.floor(fraction * count + 1e-9), count - 1)


def _branches(found: Sequence[GroupSet], fractions: Mapping[int, tuple[str, float]]) -> list[list[int]]:
    """The branches of each glob; one that the network runs through twice is one."""
    pools: dict[str, dict[tuple[str, ...], int]] = {}
    for number, (glob, _) in fractions.items():
        weights = tuple(view.name for view in found[number].views)
        pools.setdefault(glob, {}).setdefault(weights, number)
    return [list(pool.values()) for pool in pools.values()]


def _sizes(
    structure: Structure, layers: Sequence[Reader], found: Sequence[GroupSet], weights: Mapping[str, Tensor]
) -> Tensor:
    """By unit the root mean square of its filter group, relative to the mean of its set; NaN without one."""
    sizes = torch.full((structure.units.count,), math.nan, dtype=torch.float64)
    rows: dict[str, Tensor] = {}
    for layer in layers:
        scaled = layer.scale is not None and layer.kind != "conv_transpose"
        rows[layer.scale if scaled and layer.scale else layer.name] = layer.rows
    for group_set in found:
        each = group_rms(group_set, weights)
        each = each / each.mean().clamp(min=1e-30)
        for view in group_set.views:
            units = rows[view.name]
            index = torch.arange(group_set.count) if view.index is None else view.index.reshape(-1)
            known = (index >= 0) & (units >= 0)
            sizes[structure.units.find(units[known])] = each[index[known]]
    return sizes


def _take(sets: Sequence[GroupSet], fraction: float, zeroing: Zeroing, left: Mapping[str, Tensor]) -> None:
    sizes = torch.cat([group_rms(found, zeroing.weights) for found in sets])
    gone = torch.cat([group_rms(found, left) for found in sets]) == 0
    number = _number(fraction, len(sizes)) - int(gone.sum())
    if number <= 0:
        return
    order = torch.where(gone, math.inf, sizes).argsort(stable=True)
    chosen = torch.zeros(len(sizes), dtype=torch.bool)
    chosen[order[:number]] = True
    for found, part in zip(sets, torch.split(chosen, [found.count for found in sets]), strict=True):
        zeroing.groups(found, part)


def _what_is_left(structure: Structure, weights: Mapping[str, Tensor], fold: bool) -> dict[str, Tensor]:
    """The weights with zeros too where a cut now would take something."""
    found = cut(structure, weights, fold=fold)
    left = dict(weights)
    needed: dict[str, bool] = {}
    for layer in readers(structure):
        needed[layer.name] = needed.get(layer.name, False) or found.is_needed(layer.node)
        if layer.groups > 1:
            continue  # of a grouped convolution the zeros count alone, as where they are reported
        value = left[layer.name].detach().clone()
        for axis, places in found.of(structure.program.placeholder(layer.name)).items():
            gone = torch.ones(value.shape[axis], dtype=torch.bool)
            gone[places] = False
            value.index_fill_(axis, torch.nonzero(gone).reshape(-1), 0.0)
        left[layer.name] = value
    for name, used in needed.items():
        if not used:
            left[name] = torch.zeros_like(left[name])
    return left
