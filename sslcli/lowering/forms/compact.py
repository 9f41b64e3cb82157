"""Fewer rows, fewer input channels, a cropped kernel: a smaller dense convolution."""

from __future__ import annotations

import numpy as np

from sslcli.lowering.forms.packing import dead_samples, restore_rows
from sslcli.lowering.forms.taps import Box, crop_kernel, fits, live_box
from sslcli.lowering.fragments import Builder, Fragment
from sslcli.lowering.patterns import alive, live_filters
from sslcli.lowering.sites import ConvSite, Floats


def compact(site: ConvSite, *, block: int = 1) -> Fragment | None:
    """Lower to one convolution over what is live, each count rounded up to ``block`` by zeros.

    1. Input channels that no filter reads are left out by a Gather.
    2. Filters that are all zero are left out, save samples that a Gather copies back from.
    3. Taps that no filter uses at the kernel's border are cropped, the padding adjusted.
    A grouped convolution keeps equal groups: each is padded to the widest. Depthwise groups go entirely.
    None where nothing can go.
    """
    rows = _live_rows(site, block)
    channels = _live_channels(site, block)
    box = live_box(site, np.argwhere(alive(site.weight, (0, 1))))
    if not fits(site, box):
        box = Box((0,) * site.rank, site.kernel, site.pads)
    rows, channels = _drop_groups(site, rows, channels)
    builder = Builder(site.name, (site.input, site.output))
    flat = np.array([channel for group in channels for channel in group], np.int64)
    weight = _weight(site, rows, channels, box)
    if weight.shape == site.weight.shape:
        return None
    source = site.input
    if flat.tolist() != list(range(site.channels)):
        source = builder.gather(source, np.maximum(flat, 0), axis=1)
    computed = [filter_ for group in rows for filter_ in group]
    bias = np.array([site.bias[f] if f >= 0 else 0.0 for f in computed], np.float32)
    out = builder.conv(
        source,
        weight,
        bias,
        strides=site.strides,
        pads=box.pads,
        dilations=site.dilations,
        groups=len(rows),
    )
    restore_rows(builder, site, out, computed)
    return builder.finish(site.output)


def _all_rows(site: ConvSite) -> list[range]:
    per_group = site.filters // site.groups
    return [range(g * per_group, (g + 1) * per_group) for g in range(site.groups)]


def _live_rows(site: ConvSite, block: int) -> list[list[int]]:
    """Live filters of each group, the same number in each; -1 pads.

    Dead filters fill the room first; where more distinct biases are dead than fit, the groups grow.
    """
    live = live_filters(site)
    groups = [[f for f in group if live[f]] for group in _all_rows(site)]
    samples = dead_samples(site)
    widest = max(len(group) for group in groups)
    width = max(1, _up(widest, block))
    while sum(width - len(group) for group in groups) < len(samples):
        width += block
    per_group = site.filters // site.groups
    if width >= per_group:  # nothing is left out
        return [list(group) for group in _all_rows(site)]
    for group in groups:
        room = width - len(group)
        group.extend(samples[:room])
        del samples[:room]
        group.extend([-1] * (width - len(group)))
    return groups


def _live_channels(site: ConvSite, block: int) -> list[list[int]]:
    """Input channels that each group reads, the same number in each; -1 pads."""
    per_group = site.channels // site.groups
    weight = site.weight.reshape(site.groups, -1, per_group, int(np.prod(site.kernel)))
    live = alive(weight, (1, 3))
    width = min(per_group, max(1, _up(int(live.sum(axis=1).max()), block)))
    groups = []
    for group in range(site.groups):
        found = (np.flatnonzero(live[group]) + group * per_group).tolist()
        groups.append(found + [-1] * (width - len(found)))
    if width == per_group:
        return [list(range(g * per_group, (g + 1) * per_group)) for g in range(site.groups)]
    return groups


def _drop_groups(
    site: ConvSite, rows: list[list[int]], channels: list[list[int]]
) -> tuple[list[list[int]], list[list[int]]]:
    """Leave out whole groups whose filters are all dead; one dead filter must stay, to be copied from."""
    live = live_filters(site)
    kept = [index for index, group in enumerate(rows) if any(f >= 0 and live[f] for f in group)]
    computed_dead = any(f >= 0 and not live[f] for index in kept for f in rows[index])
    if not computed_dead and not live.all():
        spare = next(i for i, group in enumerate(rows) if any(f >= 0 and not live[f] for f in group))
        kept = sorted({*kept, spare})
    return [rows[index] for index in kept], [channels[index] for index in kept]


def _weight(site: ConvSite, rows: list[list[int]], channels: list[list[int]], box: Box) -> Floats:
    per_group = site.channels // site.groups
    cropped = crop_kernel(site.weight, box)
    blocks = []
    for group_rows, group_channels in zip(rows, channels, strict=True):
        block = np.zeros((len(group_rows), len(group_channels), *box.kernel), np.float32)
        own_rows = [i for i, f in enumerate(group_rows) if f >= 0]
        own_channels = [i for i, c in enumerate(group_channels) if c >= 0]
        if own_rows and own_channels:
            read = np.array([group_channels[i] % per_group for i in own_channels])
            source = cropped[[group_rows[i] for i in own_rows]][:, read]
            block[np.ix_(own_rows, own_channels)] = source
        blocks.append(block)
    return np.concatenate(blocks)


def _up(count: int, block: int) -> int:
    return -(-count // block) * block
