"""From structures as users name them to the group sets of one network."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from sslcli.errors import InputError
from sslcli.graph.groups import GroupSet, find_groups, matches
from sslcli.graph.slots import Structure
from sslcli.options.training import StructureOptions
from sslcli.sparsity.penalty import WeightedSet


def weighted_sets(
    structure: Structure,
    structures: Sequence[StructureOptions],
    size_weights: bool = True,
    depth_unit: str = "block",
) -> list[WeightedSet]:
    """The weighted sets that ``structures`` mean on a network.

    Where several entries of one structure match a layer, the last holds.

    Raises:
        InputError: an entry matches nothing; the hint has the nearest names.
    """
    kinds = dict.fromkeys(entry.name for entry in structures)
    weighted = []
    for kind in kinds:
        found = find_groups(structure, kind, depth_unit=depth_unit)
        strengths: dict[int, float] = {}
        for entry in structures:
            if entry.name == kind:
                strengths |= dict.fromkeys(_matching(found, kind, entry.match), entry.strength)
        weighted += [
            WeightedSet(found[number], strengths[number], size_weights) for number in sorted(strengths)
        ]
    return weighted


def _matching(found: Sequence[GroupSet], kind: str, glob: str) -> list[int]:
    """Positions of the sets that a glob matches; InputError where there is none."""
    chosen = [number for number, group_set in enumerate(found) if matches(group_set.label, glob)]
    if chosen:
        return chosen
    if not found:
        raise InputError(
            f"the network has no layer with {kind} groups", "see `sslcli inspect` for what it has"
        )
    layers = list(dict.fromkeys(layer for group_set in found for layer in group_set.label.split("+")))
    close = difflib.get_close_matches(glob.strip("*"), layers, n=3, cutoff=0.4) or layers[:6]
    raise InputError(
        f"the glob '{glob}' matches no layer with {kind} groups", f"layers are {', '.join(close)}"
    )


def recorded_sets(structure: Structure, zero_groups: Mapping[str, Mapping[str, int]]) -> list[GroupSet]:
    """The sets of every structure that a record names zero groups of."""
    kinds = [kind for kind, layers in zero_groups.items() if any(layers.values())]
    # a branch is zero where each of its convolutions is
    return [group_set for kind in kinds for group_set in find_groups(structure, kind, depth_unit="conv")]


def zero_counts(sets: Iterable[GroupSet], zeros: Iterable[int]) -> dict[str, dict[str, int]]:
    """Structure -> {label: zero groups}, as a record keeps it; layers without any are left out."""
    counts: dict[str, dict[str, int]] = {}
    for group_set, number in zip(sets, zeros, strict=True):
        if number:
            layers = counts.setdefault(group_set.structure, {})
            layers[group_set.label] = layers.get(group_set.label, 0) + number
    return counts
