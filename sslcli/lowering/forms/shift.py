"""Gather -> one-hot depthwise -> pointwise: columns as three plain ops.

One channel is gathered for each live column, a depthwise convolution with one-hot kernels shifts it to the
column's tap (stride, dilation and padding included), and the packed rows x columns product is a pointwise
convolution. Reference: shift convolutions, Wu et al. 2018 (arXiv 1711.08141), used here for exact rewriting.
"""

from __future__ import annotations

import numpy as np

from sslcli.lowering.forms.packing import Packed, Restore, chunks, packed_form, sum_of
from sslcli.lowering.forms.taps import padded_box
from sslcli.lowering.fragments import Builder, Fragment
from sslcli.lowering.sites import ConvSite


def shift(
    site: ConvSite,
    *,
    restore: Restore = "gather",
    rows_of: int = 1,
    columns_of: int = 4,
    chunk: int | None = None,
) -> Fragment | None:
    """Lower by shifting gathered channels.

    Args:
        site: the convolution.
        restore: how dead rows come back.
        rows_of: rows are padded to a multiple of this.
        columns_of: columns are padded to a multiple of this.
        chunk: columns worked on at a time, so that what lies in between stays in the cache.
    """
    if site.groups > 16 or all(size == 1 for size in site.kernel):
        return None

    def body(builder: Builder, site: ConvSite, problem: Packed) -> str:
        pieces = chunks(problem, chunk)
        return sum_of(builder, [_columns(builder, site, piece) for piece in pieces])

    return packed_form(site, body, restore=restore, rows_of=rows_of, columns_of=columns_of)


def _columns(builder: Builder, site: ConvSite, problem: Packed) -> str:
    gathered = builder.gather(site.input, problem.columns[:, 0], axis=1)
    box = padded_box(site, problem.columns[:, 1:])
    one_hot = np.zeros((len(problem.columns), 1, *box.kernel), np.float32)
    taps = problem.columns[:, 1:] - np.array(box.first)
    one_hot[(np.arange(len(taps)), 0, *taps.T)] = 1.0
    shifted = builder.conv(
        gathered,
        one_hot,
        None,
        strides=site.strides,
        pads=box.pads,
        dilations=site.dilations,
        groups=len(taps),
    )
    return builder.conv(shifted, pointwise(problem, site.rank), problem.bias)


def pointwise(problem: Packed, rank: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The packed product as the weight of a 1 x ... x 1 convolution."""
    return problem.weight.reshape(*problem.weight.shape, *[1] * rank)
