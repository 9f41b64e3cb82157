"""Choose the smallest groups of every layer, until a share of them is gone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sslcli.errors import UsageError
from sslcli.graph.groups import GroupSet, find_groups, matches
from sslcli.graph.readers import readers
from sslcli.graph.slots import Structure
from sslcli.surgery.cut import cut
from sslcli.surgery.measure import group_rms
from sslcli.surgery.zero import Zeroing, zero_biases

# The coarse ones first: what they take along of the finer ones counts as gone.
ORDER = ("depth", "filter", "hidden", "head", "channel", "filter2d", "shape")

Shares = Mapping[str, "float | Mapping[str, float]"]


def take_shares(
    structure: Structure, zeroing: Zeroing, shares: Shares, keep: Sequence[str], *, fold: bool = True
) -> None:
    """Set the smallest groups to zero, set by set, until the share that is asked for is gone.

    Of a set of n groups floor(share x n) are then gone: those that are zero, those that went with what was
    chosen before (the columns that read a removed filter), and of the others those of the least root mean
    square. A residual branch is the one depth group of its place, so all that match share one count.

    Args:
        structure: the network.
        zeroing: weights to work on; what is chosen is set to zero there and noted.
        shares: by structure a fraction in (0, 1), or such fractions by glob, of which the last that matches
            a layer holds.
        keep: globs of layers that are left as they are.
        fold: whether later biases can take up the constants of what goes, as in ``cut``.

    Raises:
        UsageError: no such structure, a fraction outside (0, 1), or a glob that matches nothing.
    """
    unknown = [kind for kind in shares if kind not in ORDER]
    if unknown:
        raise UsageError(f"there is no structure '{unknown[0]}'", f"structures are {', '.join(ORDER)}")
    for kind in (kind for kind in ORDER if kind in shares):
        left = _what_is_left(structure, zeroing.weights, fold)
        for sets, fraction in _pools(structure, kind, shares[kind], keep):
            _take(sets, fraction, zeroing, left)


def _pools(
    structure: Structure, kind: str, share: float | Mapping[str, float], keep: Sequence[str]
) -> list[tuple[list[GroupSet], float]]:
    """The sets of which a fraction goes together, with the fraction."""
    by_glob = share if isinstance(share, Mapping) else {"*": share}
    found = find_groups(structure, kind)
    entries: dict[int, str] = {}
    for glob, fraction in by_glob.items():
        if not 0 < fraction < 1:
            raise UsageError(
                f"the share of {kind} groups is {fraction:g}",
                "give more than 0 and less than 1, since something has to stay",
            )
        hit = [number for number, group_set in enumerate(found) if matches(group_set.label, glob)]
        if not hit:
            labels = ", ".join(group_set.label for group_set in found[:8])
            hint = f"those with any are {labels}" if found else "the network has none"
            raise UsageError(f"the glob '{glob}' matches no layer with {kind} groups", hint)
        entries |= dict.fromkeys(hit, glob)
    allowed = {
        number: glob
        for number, glob in sorted(entries.items())
        if not any(matches(found[number].label, kept) for kept in keep)
    }
    if kind == "depth":
        pools = [[number for number, own in allowed.items() if own == glob] for glob in by_glob]
        return [([found[n] for n in pool], by_glob[glob]) for pool, glob in zip(pools, by_glob, strict=True)]
    return [([found[number]], by_glob[glob]) for number, glob in allowed.items()]


def _take(sets: Sequence[GroupSet], fraction: float, zeroing: Zeroing, left: Mapping[str, Tensor]) -> None:
    if not sets:
        return
    sizes = torch.cat([group_rms(found, zeroing.weights) for found in sets])
    gone = torch.cat([group_rms(found, left) for found in sets]) == 0
    number = math.floor(fraction * len(sizes) + 1e-9) - int(gone.sum())
    if number <= 0:
        return
    order = torch.where(gone, math.inf, sizes).argsort(stable=True)
    chosen = torch.zeros(len(sizes), dtype=torch.bool)
    chosen[order[:number]] = True
    for found, part in zip(sets, torch.split(chosen, [found.count for found in sets]), strict=True):
        zeroing.groups(found, part)
        if found.structure in ("filter", "hidden"):
            zero_biases(zeroing, found, part)


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
