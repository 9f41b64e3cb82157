"""The box of kernel taps that are live at all, and the convolution's geometry within it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sslcli.lowering.patterns import Indices
from sslcli.lowering.sites import ConvSite, Floats


@dataclass(frozen=True)
class Box:
    """A smaller kernel that holds every live tap.

    Attributes:
        first: the first live tap along each spatial axis.
        kernel: sizes of the smaller kernel.
        pads: paddings that go with it; negative ones crop the input.
    """

    first: tuple[int, ...]
    kernel: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]


def live_box(site: ConvSite, taps: Indices) -> Box:
    """The bounding box of ``taps`` (L, rank) within the kernel of ``site``.

    Output o reads input o*stride - pad + tap*dilation, so dropping the first a taps takes a*dilation off
    the begin padding, and dropping the last ones takes theirs off the end padding.
    """
    if not len(taps):
        taps = np.zeros((1, site.rank), np.int64)
    first = tuple(int(value) for value in taps.min(axis=0))
    last = tuple(int(value) for value in taps.max(axis=0))
    pads = tuple(
        (begin - a * dilation, end - (size - 1 - b) * dilation)
        for (begin, end), a, b, size, dilation in zip(
            site.pads, first, last, site.kernel, site.dilations, strict=True
        )
    )
    return Box(first, tuple(b - a + 1 for a, b in zip(first, last, strict=True)), pads)


def padded_box(site: ConvSite, taps: Indices) -> Box:
    """As ``live_box``, but no smaller than what leaves every padding at 0 or more: a crop costs a copy."""
    begins = [begin // dilation for (begin, _), dilation in zip(site.pads, site.dilations, strict=True)]
    ends = [
        max(0, size - 1 - end // dilation)
        for (_, end), size, dilation in zip(site.pads, site.kernel, site.dilations, strict=True)
    ]
    limits = np.minimum(np.array([begins, ends], np.int64), np.array(site.kernel) - 1)
    first = np.minimum(taps.min(axis=0), limits[0])
    last = np.maximum(taps.max(axis=0), limits[1])
    return live_box(site, np.stack([first, last]))


def fits(site: ConvSite, box: Box) -> bool:
    """Whether cropping by negative pads is exact and leaves an input to read: the sizes must be known."""
    if all(begin >= 0 and end >= 0 for begin, end in box.pads):
        return True
    if site.spatial is None:
        return False
    return all(size + min(0, b) + min(0, e) > 0 for size, (b, e) in zip(site.spatial, box.pads, strict=True))


def crop_kernel(weight: Floats, box: Box) -> Floats:
    """The taps of the box out of a weight (N, C, *kernel)."""
    for axis, (first, size) in enumerate(zip(box.first, box.kernel, strict=True)):
        weight = np.take(weight, np.arange(first, first + size), axis=2 + axis)
    return weight
