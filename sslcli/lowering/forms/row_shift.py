"""Gathered rows + 1 x k shift + pointwise: for large images, where a full 2D shift costs too much.

The image, seen as C*H rows and one row of zeros after them, gives each live column its rows at its own
height (stride, dilation and padding along H cost nothing then); a depthwise 1 x k convolution moves them
along W.
"""

from __future__ import annotations

import numpy as np

from sslcli.lowering.forms.packing import Packed, Restore, chunks, packed_form, sum_of
from sslcli.lowering.forms.shift import pointwise
from sslcli.lowering.forms.taps import padded_box
from sslcli.lowering.fragments import Builder, Fragment
from sslcli.lowering.patterns import Indices
from sslcli.lowering.sites import ConvSite


def row_shift(
    site: ConvSite,
    *,
    restore: Restore = "gather",
    rows_of: int = 1,
    columns_of: int = 4,
    chunk: int | None = None,
) -> Fragment | None:
    """Lower a 2D convolution over an image of known size; the arguments are those of ``shift``."""
    if site.rank != 2 or site.spatial is None or site.groups > 16 or site.kernel[0] == 1:
        return None
    height, width = site.spatial
    extended: list[str] = []

    def body(builder: Builder, site: ConvSite, problem: Packed) -> str:
        if not extended:
            shape = np.array([0, site.channels * height, width], np.int64)
            flat = builder.node("Reshape", [site.input, builder.constant(shape, "shape")])
            one_row = np.array([0, 0, 0, 0, 1, 0], np.int64)
            extended.append(builder.node("Pad", [flat, builder.constant(one_row, "pads")]))
        terms = [_rows(builder, site, piece, extended[0]) for piece in chunks(problem, chunk)]
        return sum_of(builder, terms)

    return packed_form(site, body, restore=restore, rows_of=rows_of, columns_of=columns_of)


def _rows(builder: Builder, site: ConvSite, problem: Packed, extended: str) -> str:
    rows = builder.gather(extended, row_indices(site, problem.columns), axis=1)
    box = padded_box(site, problem.columns[:, 1:])
    (begin, end), first, size = box.pads[1], box.first[1], box.kernel[1]
    if (begin, end, size, site.strides[1]) != (0, 0, 1, 1):
        one_hot = np.zeros((len(problem.columns), 1, 1, size), np.float32)
        one_hot[np.arange(len(problem.columns)), 0, 0, problem.columns[:, 2] - first] = 1.0
        rows = builder.conv(
            rows,
            one_hot,
            None,
            strides=[1, site.strides[1]],
            pads=[(0, 0), (begin, end)],
            dilations=[1, site.dilations[1]],
            groups=len(problem.columns),
        )
    return builder.conv(rows, pointwise(problem, 2), problem.bias)


def row_indices(site: ConvSite, columns: Indices) -> Indices:
    """For each column and output row the input row c*H + h that it reads, or C*H, the row of zeros."""
    if site.spatial is None or site.outputs is None:
        raise ValueError(f"{site.name}: the image size is not known")
    height = site.spatial[0]
    begin = site.pads[0][0]
    at = np.arange(site.outputs[0])[None] * site.strides[0] - begin + columns[:, 1:2] * site.dilations[0]
    inside = (at >= 0) & (at < height)
    found: Indices = np.where(inside, columns[:, :1] * height + at, site.channels * height)
    return found
