"""1d convolutions as 2d ones of height 1: the kernels that runtimes have tuned are the 2d ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sslcli.lowering.fragments import Builder, Fragment
from sslcli.lowering.sites import ConvSite


def as_2d(form: Callable[[ConvSite], Fragment | None], site: ConvSite) -> Fragment | None:
    """Lower a 1d convolution by a form for 2d, between an Unsqueeze and a Squeeze; None for other ranks."""
    if site.rank != 1:
        return None
    image, result = f"{site.name}/image", f"{site.name}/result"
    inner = form(
        replace(
            site,
            input=image,
            output=result,
            weight=site.weight[:, :, None],
            strides=(1, *site.strides),
            pads=((0, 0), *site.pads),
            dilations=(1, *site.dilations),
            spatial=None if site.spatial is None else (1, *site.spatial),
        )
    )
    if inner is None:
        return None
    outer = Builder(f"{site.name}/flat", (site.input, site.output))
    axis = outer.constant(np.array([2], np.int64), "axes")
    outer.node("Unsqueeze", [site.input, axis])
    outer.nodes[-1].output[0] = image
    outer.node("Squeeze", [result, axis])
    outer.nodes[-1].output[0] = site.output
    first, last = outer.nodes
    return Fragment((first, *inner.nodes, last), {**inner.constants, **outer.constants})


def dense(site: ConvSite) -> Fragment:
    """The convolution as it is: what ``as_2d`` makes of a layer without zeros."""
    builder = Builder(site.name, (site.input, site.output))
    builder.conv(
        site.input,
        site.weight,
        site.bias,
        strides=site.strides,
        pads=site.pads,
        dilations=site.dilations,
        groups=site.groups,
    )
    return builder.finish(site.output)
