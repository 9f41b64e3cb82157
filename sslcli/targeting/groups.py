"""From structures as users name them to the group sets of one network."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from sslcli.errors import InputError
from sslcli.graph.groups import GroupSet, find_groups
from sslcli.graph.slots import Structure
from sslcli.options.training import StructureOptions
from sslcli.sparsity.penalty import WeightedSet


def weighted_sets(
    structure: Structure, structures: Sequence[StructureOptions], size_weights: bool = True
) -> list[WeightedSet]:
    """The weighted sets that ``structures`` mean on a network.

    Where several entries of one structure match a layer, the last holds.

    Raises:
        InputError: an entry matches nothing; the hint has the nearest names.
    """
    chosen: dict[tuple[str, str], WeightedSet] = {}
    for entry in structures:
        for group_set in matching(structure, entry.name, entry.match):
            key = (group_set.structure, group_set.label)
            chosen[key] = WeightedSet(group_set, entry.strength, size_weights)
    return list(chosen.values())


def matching(structure: Structure, kind: str, glob: str) -> list[GroupSet]:
    """The group sets of one kind that a glob matches.

    Raises:
        InputError: there is none; the hint has the nearest names.
    """
    found = find_groups(structure, kind, glob)
    if found:
        return found
    labels = [group_set.label for group_set in find_groups(structure, kind)]
    if not labels:
        raise InputError(
            f"the network has no layer with {kind} groups", "see `sslcli inspect` for what it has"
        )
    close = difflib.get_close_matches(glob.strip("*"), labels, n=3, cutoff=0.4) or labels[:6]
    raise InputError(
        f"the glob '{glob}' matches no layer with {kind} groups", f"layers are {', '.join(close)}"
    )


def recorded_sets(structure: Structure, zero_groups: Mapping[str, Mapping[str, int]]) -> list[GroupSet]:
    """The sets of every structure that a record names zero groups of."""
    kinds = [kind for kind, layers in zero_groups.items() if any(layers.values())]
    return [group_set for kind in kinds for group_set in find_groups(structure, kind)]


def zero_counts(sets: Iterable[GroupSet], zeros: Iterable[int]) -> dict[str, dict[str, int]]:
    """Structure -> {label: zero groups}, as a record keeps it; layers without any are left out."""
    counts: dict[str, dict[str, int]] = {}
    for group_set, number in zip(sets, zeros, strict=True):
        if number:
            counts.setdefault(group_set.structure, {})[group_set.label] = number
    return counts
