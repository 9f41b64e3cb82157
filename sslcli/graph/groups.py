"""Groups: which elements of which parameters live and die together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sslcli.graph.readers import Reader
    from sslcli.graph.slots import Structure


@dataclass(frozen=True)
class GroupView:
    """One parameter's part in a group set.

    Args:
        name: the parameter, as in ``named_parameters()``.
        shape: what the parameter is viewed as (a reshape without a copy).
        dims: the axes of ``shape`` that select the group, increasing; the others are reduced.
        index: int64, shape ``[shape[d] for d in dims]``, the group number or -1 for no group;
            None: groups are numbered in row-major order of ``dims``.
    """

    name: str
    shape: tuple[int, ...]
    dims: tuple[int, ...]
    index: Tensor | None = None


@dataclass(frozen=True)
class GroupSet:
    """Groups 0..count-1 of one structure at one place of the network; they share no element.

    Args:
        structure: filter, channel, shape, filter2d, depth, head or hidden.
        label: the layers it spans, for tables and globs.
        count: number of groups.
        sizes: int64 (count,), elements per group.
        views: the parameters that the groups lie in.
    """

    structure: str
    label: str
    count: int
    sizes: Tensor
    views: tuple[GroupView, ...]


def find_groups(
    structure: Structure, kind: str, glob: str = "*", *, depth_unit: str = "block"
) -> list[GroupSet]:
    """The groups of one structure.

    ``filter``: all rows of weights that write one unit, so over every layer of a residual sum; ``channel``:
    all columns that read it; ``shape``: a column (c, kh, kw) of one convolution, group by group, or of one
    linear layer; ``filter2d``: one kernel (n, c); ``depth``: a residual branch, or each of its convolutions;
    ``head``: queries, keys and values of one attention head; ``hidden``: a unit between linear layers.
    Units that must stay whole have no filter, channel, head or hidden group.

    Args:
        structure: from ``analyse``.
        kind: name of the structure.
        glob: keeps the sets of which a layer's name (or the label) matches.
        depth_unit: block or conv.

    Reference:
        Wen et al., Learning Structured Sparsity in Deep Neural Networks, NIPS 2016, section 3.
    """
    from sslcli.graph.branches import depth_groups
    from sslcli.graph.heads import head_groups
    from sslcli.graph.readers import readers

    layers = readers(structure)
    finders: dict[str, Callable[[], list[GroupSet]]] = {
        "filter": lambda: _coupled("filter", _rows(structure, layers)),
        "channel": lambda: _coupled("channel", _columns(structure, layers)),
        "hidden": lambda: _coupled("hidden", _rows(structure, layers), linear_only=True),
        "shape": lambda: _local("shape", layers, _shape_view),
        "filter2d": lambda: _local("filter2d", layers, _kernel_view),
        "depth": lambda: depth_groups(structure, layers, depth_unit),
        "head": lambda: head_groups(structure, layers),
    }
    if kind not in finders:
        raise ValueError(f"unknown structure {kind!r}; known: {', '.join(finders)}")
    return [found for found in finders[kind]() if matches(found.label, glob)]


def matches(label: str, glob: str) -> bool:
    """Whether a glob names a group set: its label or one of the layers in it."""
    return fnmatchcase(label, glob) or any(fnmatchcase(layer, glob) for layer in label.split("+"))


@dataclass(frozen=True)
class Share:
    """A parameter's elements by unit: ``units`` has the shape of the selecting axes, -1 for none."""

    layer: str
    linear: bool
    name: str
    shape: tuple[int, ...]
    dims: tuple[int, ...]
    units: Tensor


def _rows(structure: Structure, layers: Sequence[Reader]) -> list[Share]:
    shares: dict[str, Share] = {}
    for layer in layers:
        name, shape = layer.name, layer.shape
        units = _removable(structure, layer.rows)
        dims: tuple[int, ...] = (0,)
        if layer.kind == "conv_transpose":
            shape = (layer.groups, shape[0] // layer.groups, shape[1], math.prod(shape[2:]))
            units, dims = units.reshape(layer.groups, -1), (0, 2)
        if layer.scale is not None and layer.kind != "conv_transpose":
            name, shape = layer.scale, (layer.shape[0],)
        shares.setdefault(name, Share(layer.layer, layer.kind == "linear", name, shape, dims, units))
    return list(shares.values())


def _columns(structure: Structure, layers: Sequence[Reader]) -> list[Share]:
    shares: dict[str, Share] = {}
    for layer in layers:
        if layer.depthwise or layer.scale is not None:
            continue
        units, shape = _removable(structure, layer.columns), layer.shape
        dims: tuple[int, ...] = (1,)
        if layer.kind == "conv_transpose":
            dims = (0,)
        elif layer.groups > 1:
            shape = (layer.groups, shape[0] // layer.groups, shape[1], math.prod(shape[2:]))
            units, dims = units.reshape(layer.groups, -1), (0, 2)
        shares.setdefault(
            layer.name, Share(layer.layer, layer.kind == "linear", layer.name, shape, dims, units)
        )
    return list(shares.values())


def _removable(structure: Structure, units: Tensor) -> Tensor:
    """The units that can go on their own; -1 for pinned ones and those of joint facets."""
    result = units.clone()
    chosen = result >= 0
    result[chosen] = structure.units.find(result[chosen])
    result[chosen & structure.units.pinned(result.clamp(min=0))] = -1
    for array in structure.rigid:
        result[torch.isin(result, array.reshape(-1))] = -1  # isin views its second argument
    return result


def _coupled(kind: str, shares: Sequence[Share], *, linear_only: bool = False) -> list[GroupSet]:
    """One set for every combination of parameters that share units."""
    owners: dict[int, list[int]] = {}
    for number, share in enumerate(shares):
        for unit in torch.unique(share.units).tolist():
            if unit >= 0:
                owners.setdefault(unit, []).append(number)
    combinations: dict[tuple[int, ...], list[int]] = {}
    for unit, numbers in owners.items():
        combinations.setdefault(tuple(numbers), []).append(unit)
    sets = []
    for combination, units in sorted(combinations.items()):
        parts = [shares[number] for number in combination]
        if linear_only and not all(part.linear for part in parts):
            continue
        sets.append(_set_of(kind, parts, units))
    return sets


def _set_of(kind: str, shares: Sequence[Share], units: Sequence[int]) -> GroupSet:
    ordered = torch.tensor(sorted(units))
    views, sizes = [], torch.zeros(len(ordered), dtype=torch.int64)
    for share in shares:
        place = torch.searchsorted(ordered, share.units.clamp(min=0)).clamp(max=len(ordered) - 1)
        index = torch.where(ordered[place] == share.units, place, -1)
        plain = index.numel() == len(ordered) and torch.equal(index.reshape(-1), torch.arange(len(ordered)))
        views.append(GroupView(share.name, share.shape, share.dims, None if plain else index))
        each = math.prod(share.shape) // max(index.numel(), 1)
        sizes += torch.bincount(index[index >= 0], minlength=len(ordered)) * each
    label = "+".join(dict.fromkeys(share.layer for share in shares))
    return GroupSet(kind, label, len(ordered), sizes, tuple(views))


def _local(
    kind: str,
    layers: Iterable[Reader],
    view: Callable[[Reader], tuple[tuple[int, ...], tuple[int, ...]] | None],
) -> list[GroupSet]:
    """One set a layer, whatever the rest of the network does."""
    sets: dict[str, GroupSet] = {}
    for layer in layers:
        found = view(layer)
        if found is None or layer.scale is not None or layer.name in sets:
            continue
        shape, dims = found
        count = math.prod([shape[axis] for axis in dims])
        sizes = torch.full((count,), math.prod(shape) // count)
        sets[layer.name] = GroupSet(kind, layer.layer, count, sizes, (GroupView(layer.name, shape, dims),))
    return list(sets.values())


def _shape_view(layer: Reader) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    if layer.kind == "linear":
        return layer.shape, (1,)
    if layer.kind == "conv_transpose" or layer.depthwise:
        return None
    rows = layer.shape[0] // layer.groups
    return (layer.groups, rows, math.prod(layer.shape[1:])), (0, 2)


def _kernel_view(layer: Reader) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    taps = math.prod(layer.shape[2:])
    if layer.kind != "conv" or taps == 1 or layer.depthwise:
        return None
    return (layer.shape[0], layer.shape[1], taps), (0, 1)
