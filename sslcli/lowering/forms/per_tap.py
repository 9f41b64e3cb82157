"""Per tap: Gather the channels that are live there, Slice the padded image at the tap, Concat, pointwise."""

from __future__ import annotations

import numpy as np

from sslcli.lowering.forms.packing import Packed, Restore, packed_form
from sslcli.lowering.forms.shift import pointwise
from sslcli.lowering.fragments import Builder, Fragment
from sslcli.lowering.patterns import Indices
from sslcli.lowering.sites import ConvSite

_MOST_TAPS = 49


def per_tap(site: ConvSite, *, restore: Restore = "gather") -> Fragment | None:
    """Lower tap by tap; needs the image size to know where each tap's window ends."""
    if site.outputs is None or site.groups > 4 or not 1 < int(np.prod(site.kernel)) <= _MOST_TAPS:
        return None
    padded: list[str] = []

    def body(builder: Builder, site: ConvSite, problem: Packed) -> str:
        if not padded:
            padded.append(_pad(builder, site))
        # Columns tap by tap: the pointwise weight follows the same order.
        order = np.lexsort((problem.columns[:, 0], *problem.columns[:, :0:-1].T))
        columns = problem.columns[order]
        taps, starts = np.unique(columns[:, 1:], axis=0, return_index=True)
        bounds = [*starts.tolist(), len(columns)]
        pieces = [
            _window(builder, site, padded[0], columns[bounds[i] : bounds[i + 1], 0], tap)
            for i, tap in enumerate(taps)
        ]
        joined = pieces[0] if len(pieces) == 1 else builder.node("Concat", pieces, {"axis": 1})
        ordered = Packed(problem.weight[:, order], problem.bias, columns, problem.filters)
        return builder.conv(joined, pointwise(ordered, site.rank), problem.bias)

    return packed_form(site, body, restore=restore)


def _pad(builder: Builder, site: ConvSite) -> str:
    if not any(begin or end for begin, end in site.pads):
        return site.input
    flat = [0, 0, *(begin for begin, _ in site.pads), 0, 0, *(end for _, end in site.pads)]
    return builder.node("Pad", [site.input, builder.constant(np.array(flat, np.int64), "pads")])


def _window(builder: Builder, site: ConvSite, padded: str, channels: Indices, tap: Indices) -> str:
    outputs = np.array(site.outputs, np.int64)
    strides = np.array(site.strides, np.int64)
    starts = tap.astype(np.int64) * np.array(site.dilations, np.int64)
    ends = starts + (outputs - 1) * strides + 1
    axes = np.arange(2, 2 + site.rank, dtype=np.int64)
    gathered = builder.gather(padded, channels, axis=1)
    arrays = (("starts", starts), ("ends", ends), ("axes", axes), ("steps", strides))
    return builder.node("Slice", [gathered, *(builder.constant(values, hint) for hint, values in arrays)])
