"""Lowering of a convolution's input to columns (im2col) in memory that is allocated once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import onnx
import torch

from sslcli.bench.graphs import ShapedGraph


@dataclass(frozen=True)
class ConvGeometry:
    """What a convolution reads; spatial tuples hold one number an axis.

    Attributes:
        weight: shape of the weight, (filters, channels / groups, *kernel).
        image: shape of the input, (batch, channels, *space).
        out: spatial shape of the output.
        strides: steps of the kernel.
        dilations: steps between its taps.
        pads: zeros before each axis.
        groups: number of groups.
    """

    weight: tuple[int, ...]
    image: tuple[int, ...]
    out: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int


class Columns:
    """The columns of one input, written by one strided copy (several times faster than ``F.unfold``).

    Attributes:
        parts: shape (batch, groups, channels / groups * kernel, positions).
    """

    def __init__(self, geometry: ConvGeometry, device: torch.device) -> None:
        image, kernel, space = geometry.image, geometry.weight[2:], range(len(geometry.out))
        padded = torch.zeros((*image[:2], *_reach(geometry)), device=device)
        self._inside = padded
        for axis in space:
            self._inside = self._inside.narrow(2 + axis, geometry.pads[axis], image[2 + axis])
        steps = padded.stride()
        self._windows = padded.as_strided(
            (*image[:2], *kernel, *geometry.out),
            (
                *steps[:2],
                *(steps[2 + axis] * geometry.dilations[axis] for axis in space),
                *(steps[2 + axis] * geometry.strides[axis] for axis in space),
            ),
        )
        self._columns = torch.zeros(self._windows.shape, device=device)
        self.parts = self._columns.view(
            image[0], geometry.groups, math.prod(geometry.weight[1:]), math.prod(geometry.out)
        )

    def lower(self, image: torch.Tensor) -> None:
        """Write the columns of ``image``."""
        self._inside.copy_(image)
        self._columns.copy_(self._windows)


def conv_geometry(graph: ShapedGraph, node: onnx.NodeProto) -> ConvGeometry | None:
    """Read a ``Conv`` node; None where it is another operator or a shape is unknown."""
    if node.op_type != "Conv" or any(name not in graph.types for name in (*node.input[:2], node.output[0])):
        return None
    weight, image = graph.types[node.input[1]].shape, graph.types[node.input[0]].shape
    out = graph.types[node.output[0]].shape[2:]
    found = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    ones = (1,) * len(out)
    geometry = ConvGeometry(
        weight,
        image,
        out,
        strides=tuple(found.get("strides", ones)),
        dilations=tuple(found.get("dilations", ones)),
        pads=(0,) * len(out),
        groups=int(found.get("group", 1)),
    )
    return _with_pads(geometry, found)


def _with_pads(geometry: ConvGeometry, attributes: dict[str, Any]) -> ConvGeometry:
    pads = tuple(attributes.get("pads", geometry.pads * 2))[: len(geometry.out)]
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        sizes = zip(_windows_reach(geometry), geometry.image[2:], strict=True)
        missing = [max(0, reach - size) for reach, size in sizes]
        pads = tuple((count + (mode == b"SAME_LOWER")) // 2 for count in missing)
    return replace(geometry, pads=pads)


def _windows_reach(geometry: ConvGeometry) -> list[int]:
    """How far the last window reaches along each axis."""
    return [
        (size - 1) * step + (taps - 1) * gap + 1
        for size, step, taps, gap in zip(
            geometry.out, geometry.strides, geometry.weight[2:], geometry.dilations, strict=True
        )
    ]


def _reach(geometry: ConvGeometry) -> list[int]:
    """Spatial shape of the padded image: as far as windows reach, and no less than the image itself."""
    return [
        max(reach, pad + size)
        for reach, pad, size in zip(_windows_reach(geometry), geometry.pads, geometry.image[2:], strict=True)
    ]
