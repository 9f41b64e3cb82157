"""Layers as tables see them: what is live, what it costs, why the rest stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sslcli.graph.groups import GroupSet, find_groups
from sslcli.graph.readers import Reader, readers
from sslcli.graph.slots import Structure
from sslcli.surgery.cut import Remaining, count, cut, macs_of


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer at its present weights.

    Attributes:
        name: dotted name.
        kind: conv, conv_transpose or linear.
        weight: name of the parameter.
        shape: the weight's.
        groups: of the convolution.
        filters: live rows and all rows.
        channels: live input channels and all of them.
        columns: live columns (c, kh, kw) and all of them, group by group.
        macs: multiply-accumulates of one sample as executed.
        macs_packed: live rows x live columns only, group by group.
        reasons: why filters that stay whole do.
    """

    name: str
    kind: str
    weight: str
    shape: tuple[int, ...]
    groups: int
    filters: tuple[int, int]
    channels: tuple[int, int]
    columns: tuple[int, int]
    macs: int
    macs_packed: int
    reasons: tuple[str, ...]


def layers(structure: Structure, weights: Mapping[str, Tensor] | None = None) -> list[Layer]:
    """Every layer with a weight of its own, once, in order; MACs add up over its uses."""
    weights = structure.program.weights() if weights is None else weights
    found: dict[str, Layer] = {}
    for reader in readers(structure):
        layer = _layer(structure, reader, weights[reader.name].detach())
        if reader.name in found:
            first = found[reader.name]
            macs, packed = first.macs + layer.macs, first.macs_packed + layer.macs_packed
            layer = Layer(**{**first.__dict__, "macs": macs, "macs_packed": packed})
        found[reader.name] = layer
    return list(found.values())


def _layer(structure: Structure, reader: Reader, weight: Tensor) -> Layer:
    batch = max(structure.program.batch_hint, 1)
    macs = macs_of(reader.node, None) // batch
    live = (weight != 0).flatten(2) if weight.dim() > 2 else (weight != 0).unsqueeze(2)
    if reader.kind == "conv_transpose":
        live = live.reshape(reader.groups, -1, *live.shape[1:]).transpose(1, 2).flatten(0, 1)
    grouped = live.reshape(reader.groups, -1, live.shape[1] * live.shape[2])
    rows, columns = grouped.any(2), grouped.any(1)
    channels = live.reshape(reader.groups, -1, *live.shape[1:]).any(3).any(1)
    cells = grouped.shape[0] * grouped.shape[1] * grouped.shape[2]
    packed = int((rows.sum(1) * columns.sum(1)).sum())
    units = reader.rows[reader.rows >= 0]
    return Layer(
        name=reader.layer,
        kind=reader.kind,
        weight=reader.name,
        shape=reader.shape,
        groups=reader.groups,
        filters=(int(rows.sum()), rows.numel()),
        channels=(int(channels.sum()), channels.numel()),
        columns=(int(columns.sum()), columns.numel()),
        macs=macs,
        macs_packed=macs * packed // max(cells, 1),
        reasons=tuple(structure.units.why(units)) if len(units) else ("its result has no structure",),
    )


def packed_macs(structure: Structure, weights: Mapping[str, Tensor] | None = None) -> int:
    """MACs of one sample with every layer counted as live rows x live columns, group by group."""
    table = layers(structure, weights)
    executed = sum(layer.macs for layer in table)
    return count(None, structure).macs - executed + sum(layer.macs_packed for layer in table)


def remaining(structure: Structure, weights: Mapping[str, Tensor]) -> Remaining:
    """What pruning at these weights would leave."""
    every = dict(structure.program.weights())
    every.update({name: tensor.detach() for name, tensor in weights.items() if name in every})
    found = cut(structure, every)
    if found.dead:
        return Remaining(0, 0)
    return count(found, structure)


@dataclass(frozen=True)
class GroupSummary:
    """One group set: how many groups it has, how many are zero, and how large the others are.

    Attributes:
        structure: filter, channel and so on.
        label: its layers.
        count: groups.
        zero: of them, exactly zero.
        rms: root mean square of the groups that are not zero at each tenth, ascending: the smallest, the one
            that a tenth lie at or below, and so on to the largest; empty if all are zero. What a threshold is
            compared with.
    """

    structure: str
    label: str
    count: int
    zero: int
    rms: tuple[float, ...]


def group_table(structure: Structure, weights: Mapping[str, Tensor] | None = None) -> list[GroupSummary]:
    """Every group set of every structure."""
    weights = structure.program.weights() if weights is None else weights
    kinds = ("filter", "channel", "shape", "filter2d", "depth", "head", "hidden")
    return [_summary(kind, found, weights) for kind in kinds for found in find_groups(structure, kind)]


def group_rms(found: GroupSet, weights: Mapping[str, Tensor]) -> Tensor:
    """The root mean square of the weights of every group, float64 (count,)."""
    return group_norms(found, weights) / found.sizes.double().sqrt()


def _summary(kind: str, found: GroupSet, weights: Mapping[str, Tensor]) -> GroupSummary:
    sizes = group_rms(found, weights)
    live = sizes[sizes > 0].sort().values
    places = torch.linspace(0, len(live) - 1, 11).floor().long() if len(live) else torch.zeros(0).long()
    return GroupSummary(
        structure=kind,
        label=found.label,
        count=found.count,
        zero=found.count - len(live),
        rms=tuple(live[places].tolist()),
    )


def group_norms(found: GroupSet, weights: Mapping[str, Tensor]) -> Tensor:
    """The l2 norm of every group, float64 (count,)."""
    total = torch.zeros(found.count, dtype=torch.float64)
    for view in found.views:
        value = weights[view.name].detach().double().cpu().reshape(view.shape)
        others = [axis for axis in range(len(view.shape)) if axis not in view.dims]
        squares = value.square().sum(others) if others else value.square()
        if view.index is None:
            total += squares.reshape(-1)
        else:
            index = view.index.reshape(-1)
            total.index_add_(0, index[index >= 0], squares.reshape(-1)[index >= 0])
    return total.sqrt()
