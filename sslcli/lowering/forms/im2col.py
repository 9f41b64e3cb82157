"""Gathered im2col + MatMul: one Gather picks every element that the packed product reads."""

from __future__ import annotations

import numpy as np

from sslcli.lowering.forms.packing import Packed, Restore, packed_form
from sslcli.lowering.fragments import Builder, Fragment
from sslcli.lowering.patterns import Indices, parts
from sslcli.lowering.sites import ConvSite

_MOST_INDICES = 1_000_000


def im2col(site: ConvSite, *, restore: Restore = "gather") -> Fragment | None:
    """Lower to one element-wise Gather and one MatMul; needs the image size."""
    outputs = site.outputs
    if outputs is None or site.spatial is None or site.groups > 16:
        return None
    live = sum(len(part.columns) for part in parts(site))
    if live * int(np.prod(outputs)) > _MOST_INDICES:
        return None
    image = site.channels * int(np.prod(site.spatial))
    flat: list[str] = []

    def body(builder: Builder, site: ConvSite, problem: Packed) -> str:
        if not flat:
            shape = builder.constant(np.array([0, image], np.int64), "shape")
            rows = builder.node("Reshape", [site.input, shape])
            one = builder.constant(np.array([0, 0, 0, 1], np.int64), "pads")
            flat.append(builder.node("Pad", [rows, one]))
        patches = builder.gather(flat[0], element_indices(site, problem.columns), axis=1)
        product = builder.node("MatMul", [builder.constant(problem.weight, "weight"), patches])
        if problem.bias.any():
            product = builder.node("Add", [product, builder.constant(problem.bias[:, None], "bias")])
        image_shape = np.array([0, len(problem.bias), *outputs], np.int64)
        return builder.node("Reshape", [product, builder.constant(image_shape, "shape")])

    return packed_form(site, body, restore=restore)


def element_indices(site: ConvSite, columns: Indices) -> Indices:
    """(L, P): for each column and output position the element of the flat image, or the zero after it."""
    if site.outputs is None or site.spatial is None:
        raise ValueError(f"{site.name}: the image size is not known")
    grids = np.meshgrid(*(np.arange(size) for size in site.outputs), indexing="ij")
    found = np.broadcast_to(columns[:, :1], (len(columns), grids[0].size)).astype(np.int64)
    inside = np.ones(found.shape, bool)
    for axis, grid in enumerate(grids):
        at = grid.reshape(1, -1) * site.strides[axis] - site.pads[axis][0]
        at = at + columns[:, 1 + axis : 2 + axis] * site.dilations[axis]
        inside &= (at >= 0) & (at < site.spatial[axis])
        found = found * site.spatial[axis] + at
    return np.where(inside, found, site.channels * int(np.prod(site.spatial)))
