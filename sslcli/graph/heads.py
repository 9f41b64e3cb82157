"""Attention heads: the rows of queries, keys and values that make one head's scores and results."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sslcli.graph.groups import GroupSet, GroupView
from sslcli.graph.readers import Reader
from sslcli.graph.slots import Structure


def head_groups(structure: Structure, layers: Sequence[Reader]) -> list[GroupSet]:
    """A set for every attention, with one group a head."""
    sets = []
    for heads in head_units(structure):
        views, sizes, labels = [], torch.zeros(len(heads), dtype=torch.int64), []
        for layer in layers:
            index = torch.full((len(layer.rows),), -1)
            for number, units in enumerate(heads):
                index[torch.isin(layer.rows, units)] = number
            if layer.kind == "linear" and bool((index >= 0).any()):
                views.append(GroupView(layer.name, layer.shape, (0,), index))
                sizes += torch.bincount(index[index >= 0], minlength=len(heads)) * math.prod(layer.shape[1:])
                labels.append(layer.layer)
        if views and not bool(structure.units.pinned(torch.cat(heads)).any()):
            sets.append(GroupSet("head", "+".join(dict.fromkeys(labels)), len(heads), sizes, tuple(views)))
    return sets


def head_units(structure: Structure) -> list[list[Tensor]]:
    """For every attention, the units of each head (its scores', queries', keys' and values')."""
    found = []
    for scores in structure.heads:
        roots = structure.units.find(scores.reshape(-1))
        distinct = list(dict.fromkeys(roots.tolist()))
        rows: dict[int, list[Tensor]] = {root: [torch.tensor([root])] for root in distinct}
        for link in structure.links:
            columns = [array for array in link.arrays if array.shape[1] == 1 and int(array[0, 0]) in rows]
            if not columns or len(columns[0]) % len(distinct):
                continue
            for place, root in enumerate(columns[0][:, 0].tolist()):
                for array in link.arrays:
                    if root in rows:
                        rows[root].append(array[place])
        heads = _joined([torch.unique(torch.cat(rows[root])) for root in distinct])
        if len(heads) > 1:
            found.append(heads)
    return found


def _joined(heads: list[Tensor]) -> list[Tensor]:
    """Heads that share units are one: the batch was folded into the heads' axis."""
    result: list[Tensor] = []
    for units in heads:
        for position, other in enumerate(result):
            if bool(torch.isin(units, other).any()):
                result[position] = torch.unique(torch.cat([units, other]))
                break
        else:
            result.append(units)
    return result
