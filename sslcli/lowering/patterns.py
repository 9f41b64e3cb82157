"""What is zero in a weight: dead rows, dead columns (c, kh, kw), dead channels, dead 2D kernels.

MACs are multiply-accumulates. Zero means exactly 0.0 (or -0.0).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sslcli.lowering.sites import ConvSite, Floats, LinearSite, Site

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]


def alive(weight: NDArray[np.generic], axis: int | tuple[int, ...]) -> Flags:
    """Whether anything is not zero over ``axis``; the other axes remain."""
    found: Flags = np.asarray(np.any(weight != 0, axis=axis))
    return found


def live_filters(site: ConvSite) -> Flags:
    """(N,): which filters are not all zero."""
    return alive(site.weight.reshape(site.filters, -1), 1)


@dataclass(frozen=True)
class Part:
    """What is live in one group of a convolution.

    Attributes:
        rows: live filters, absolute indices.
        columns: live (channel, *tap), absolute channel indices, shape (L, 1 + rank), sorted by channel.
        weight: packed (len(rows), L).
    """

    rows: Indices
    columns: Indices
    weight: Floats


def parts(site: ConvSite) -> list[Part]:
    """The live rows and columns of each group; a group that is all zero keeps no row and no column."""
    per_rows, per_channels = site.filters // site.groups, site.channels // site.groups
    found = []
    for group in range(site.groups):
        weight = site.weight[group * per_rows : (group + 1) * per_rows]
        rows = np.flatnonzero(alive(weight.reshape(per_rows, -1), 1))
        columns = np.argwhere(alive(weight, 0))
        packed = weight[(rows[:, None], *columns.T)]
        offset = np.array([group * per_channels] + [0] * site.rank)
        found.append(Part(rows + group * per_rows, columns + offset, packed))
    return found


def is_sparse(site: Site) -> bool:
    """Whether any row, column or (for a convolution) 2D kernel is entirely zero."""
    weight = site.weight
    if isinstance(site, LinearSite):
        return not (alive(weight, 0).all() and alive(weight, 1).all())
    kernels = alive(weight.reshape(*weight.shape[:2], -1), 2)
    if not kernels.all():
        return True
    groups = weight.reshape(site.groups, -1, *weight.shape[1:])
    return not alive(groups, 1).all()


def macs_share(site: Site) -> float:
    """Live rows x live columns over all weights: the arithmetic limit of what lowering can save."""
    if isinstance(site, LinearSite):
        live = int(alive(site.weight, 0).sum()) * int(alive(site.weight, 1).sum())
    else:
        live = sum(part.weight.size for part in parts(site))
    return live / site.weight.size


def pattern_hash(site: Site) -> str:
    """A name for where the zeros are, whatever the values."""
    bits = np.packbits(site.weight != 0)
    return hashlib.sha256(bits.tobytes()).hexdigest()[:16]


def has_zero_groups(weight: NDArray[np.generic]) -> bool:
    """Whether a row, a column or a 2D kernel of a weight (N, C, ...) is all zero, whatever its groups."""
    rows = weight.reshape(len(weight), -1)
    kernels = weight.reshape(*weight.shape[:2], -1)
    return not (alive(rows, 1).all() and alive(rows, 0).all() and alive(kernels, 2).all())
