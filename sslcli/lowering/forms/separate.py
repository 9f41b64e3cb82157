"""Several smaller convolutions: one for each group, or one for each cluster of filters with like 2D kernels.

2D-filter sparsity leaves, for each filter, a set of input channels whose kernel is not zero. Filters with
like sets are put together; each cluster reads only the channels that its filters read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sslcli.lowering.forms.packing import dead_samples, restore_rows
from sslcli.lowering.forms.taps import Box, crop_kernel, fits, live_box
from sslcli.lowering.fragments import Builder, Fragment
from sslcli.lowering.patterns import Indices, alive
from sslcli.lowering.sites import ConvSite

_MOST_PIECES = 16
_LEAST_SAVING = 0.05


def separate(site: ConvSite, *, clusters: int = 1) -> Fragment | None:
    """Lower to a convolution for each cluster, joined by Concat and put in order by Gather.

    Args:
        site: the convolution.
        clusters: clusters that each group's filters are split into.

    Returns:
        None where it would be one convolution, too many, or save less than 5 % of the MACs.
    """
    if site.groups * clusters < 2 or site.groups * clusters > _MOST_PIECES:
        return None
    pieces = _pieces(site, clusters)
    macs = sum(len(rows) * len(channels) for rows, channels in pieces)
    if len(pieces) < 2 or macs > (1 - _LEAST_SAVING) * site.filters * site.channels / site.groups:
        return None
    builder = Builder(site.name, (site.input, site.output))
    outs = [_convolution(builder, site, rows, channels) for rows, channels in pieces]
    joined = builder.node("Concat", outs, {"axis": 1})
    restore_rows(builder, site, joined, [int(f) for rows, _ in pieces for f in rows])
    return builder.finish(site.output)


def _pieces(site: ConvSite, clusters: int) -> list[tuple[Indices, Indices]]:
    """(filters, absolute channels) of each convolution; dead filters ride along as far as needed."""
    per_rows, per_channels = site.filters // site.groups, site.channels // site.groups
    kernels = alive(site.weight.reshape(site.filters, per_channels, -1), 2)
    found: list[tuple[Indices, Indices]] = []
    for group in range(site.groups):
        rows = np.arange(group * per_rows, (group + 1) * per_rows)
        live = rows[alive(kernels[rows], 1)]
        for members in _cluster(kernels[live], clusters):
            channels = np.flatnonzero(alive(kernels[live[members]], 0)) + group * per_channels
            found.append((live[members], channels))
    samples = np.array(dead_samples(site), np.int64)
    if not found:
        return [(samples, np.zeros(1, np.int64))]
    rows, channels = found[0]
    found[0] = (np.concatenate([rows, samples]), channels)
    return found


def _cluster(kernels: NDArray[np.bool_], count: int) -> list[Indices]:
    """Split rows into ``count`` clusters by the channels that they share: k-means on 0/1 rows, seeded."""
    if not len(kernels):
        return []
    if count == 1 or len(kernels) <= count:
        return [np.arange(len(kernels))]
    points = kernels.astype(np.float64)
    centres = points[_spread(points, count)]
    labels = np.zeros(len(points), np.int64)
    for _ in range(20):
        distance = ((points[:, None] - centres[None]) ** 2).sum(axis=2)
        new = distance.argmin(axis=1)
        if (new == labels).all():
            break
        labels = new
        centres = np.stack(
            [points[labels == k].mean(axis=0) if (labels == k).any() else centres[k] for k in range(count)]
        )
    return [np.flatnonzero(labels == k) for k in range(count) if (labels == k).any()]


def _spread(points: NDArray[np.float64], count: int) -> list[int]:
    """Start centres: the first row, then always the row farthest from those chosen."""
    chosen = [0]
    distance = ((points - points[0]) ** 2).sum(axis=1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return chosen


def _convolution(builder: Builder, site: ConvSite, rows: Indices, channels: Indices) -> str:
    per_channels = site.channels // site.groups
    weight = site.weight[rows][:, channels % per_channels]
    box = live_box(site, np.argwhere(alive(weight, (0, 1))))
    if not fits(site, box):
        box = Box((0,) * site.rank, site.kernel, site.pads)
    source = site.input
    if channels.tolist() != list(range(site.channels)):
        source = builder.gather(source, channels, axis=1)
    return builder.conv(
        source,
        crop_kernel(weight, box),
        site.bias[rows],
        strides=site.strides,
        pads=box.pads,
        dilations=site.dilations,
    )
