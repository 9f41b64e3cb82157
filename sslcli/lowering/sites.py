"""The places of a model that can be lowered: convolutions and linear layers with constant weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from sslcli.lowering import protos

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ConvSite:
    """One ``Conv`` node, read once.

    Attributes:
        name: the node's name.
        input: value that it reads.
        output: value that it writes.
        weight: (N, C/G, *kernel).
        bias: (N,), zeros where the node has none.
        groups: G.
        strides: one per spatial axis.
        pads: begin and end per spatial axis, as ((begin, end), ...).
        dilations: one per spatial axis.
        spatial: input sizes beyond batch and channels; None where the graph leaves one open.
    """

    name: str
    input: str
    output: str
    weight: Floats
    bias: Floats
    groups: int
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]
    spatial: tuple[int, ...] | None

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return self.weight.ndim - 2

    @property
    def kernel(self) -> tuple[int, ...]:
        """Kernel sizes."""
        return tuple(self.weight.shape[2:])

    @property
    def channels(self) -> int:
        """Input channels."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def filters(self) -> int:
        """Output channels, N."""
        return int(self.weight.shape[0])

    @property
    def outputs(self) -> tuple[int, ...] | None:
        """Output sizes beyond batch and channels."""
        if self.spatial is None:
            return None
        axes = zip(self.spatial, self.kernel, self.strides, self.pads, self.dilations, strict=True)
        return tuple((s + sum(p) - d * (k - 1) - 1) // t + 1 for s, k, t, p, d in axes)


@dataclass(frozen=True)
class LinearSite:
    """One ``Gemm`` or ``MatMul`` with a constant weight.

    Attributes:
        name: the node's name.
        input: value that it reads, features on the last axis.
        output: value that it writes.
        weight: (N, K), rows write outputs.
        bias: (N,) or None.
        is_matmul: written as MatMul, so the input may have any rank.
    """

    name: str
    input: str
    output: str
    weight: Floats
    bias: Floats | None
    is_matmul: bool


Site = ConvSite | LinearSite


def find_sites(model: onnx.ModelProto) -> dict[str, Site]:
    """The sites by node name, in the graph's order; nodes that do not qualify are left out."""
    known = protos.constants(model.graph)
    shapes = infer_shapes(model)
    found: dict[str, Site] = {}
    for node in model.graph.node:
        site = read_site(node, known, shapes)
        if site is not None:
            found[node.name] = site
    return found


def infer_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Shapes by value name, None for sizes that are open, as far as inference gets."""
    return {
        name: tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
        for name, tensor in protos.value_types(model).items()
        if tensor.HasField("shape")
    }


def read_site(
    node: onnx.NodeProto, known: dict[str, onnx.TensorProto], shapes: dict[str, tuple[int | None, ...]]
) -> Site | None:
    """The site of one node, or None: other operator, weight that is computed, not float32."""
    if node.domain not in ("", "ai.onnx") or len(node.input) < 2 or node.input[1] not in known:
        return None
    has_bias = len(node.input) > 2 and bool(node.input[2])
    if has_bias and node.input[2] not in known:
        return None
    weight = protos.array(known[node.input[1]])
    if weight.dtype != np.float32:
        return None
    bias = protos.array(known[node.input[2]]).astype(np.float32) if has_bias else None
    if node.op_type == "Conv":
        return _conv(node, weight.astype(np.float32), bias, shapes)
    if node.op_type in ("Gemm", "MatMul") and weight.ndim == 2:
        return _linear(node, weight.astype(np.float32), bias)
    return None


def _conv(
    node: onnx.NodeProto, weight: Floats, bias: Floats | None, shapes: dict[str, tuple[int | None, ...]]
) -> ConvSite | None:
    rank = weight.ndim - 2
    shape = shapes.get(node.input[0], ())
    sizes = tuple(size for size in shape[2:] if size is not None)
    spatial = sizes if len(sizes) == rank and rank else None
    strides = tuple(protos.integers(node, "strides", [1] * rank))
    dilations = tuple(protos.integers(node, "dilations", [1] * rank))
    kernel = tuple(weight.shape[2:])
    pads = _pads(node, kernel, strides, dilations, spatial)
    if pads is None or rank == 0 or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    return ConvSite(
        node.name,
        node.input[0],
        node.output[0],
        weight,
        np.zeros(weight.shape[0], np.float32) if bias is None else bias,
        protos.integer(node, "group", 1),
        strides,
        pads,
        dilations,
        spatial,
    )


def _pads(
    node: onnx.NodeProto,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    spatial: tuple[int, ...] | None,
) -> tuple[tuple[int, int], ...] | None:
    """Explicit paddings; None for SAME_* over sizes that are open."""
    rank = len(kernel)
    mode = protos.text(node, "auto_pad", "NOTSET")
    if mode == "VALID":
        return ((0, 0),) * rank
    if mode == "NOTSET":
        flat = protos.integers(node, "pads", [0] * (2 * rank))
        return tuple(zip(flat[:rank], flat[rank:], strict=True))
    if spatial is None:
        return None
    found = []
    for size, k, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / stride) - 1) * stride + dilation * (k - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        found.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return tuple(found)


def _linear(node: onnx.NodeProto, weight: Floats, bias: Floats | None) -> LinearSite | None:
    if node.op_type == "MatMul":
        return LinearSite(node.name, node.input[0], node.output[0], weight.T, None, True)
    plain = protos.number(node, "alpha", 1.0) == 1.0 and protos.number(node, "beta", 1.0) == 1.0
    if not plain or protos.integer(node, "transA", 0):
        return None
    rows = weight if protos.integer(node, "transB", 0) else weight.T
    if bias is not None:
        per_row = bias.shape in ((rows.shape[0],), (1, rows.shape[0]))
        if not per_row and bias.size != 1:
            return None  # it differs from sample to sample, or fits nothing
        bias = np.broadcast_to(bias.reshape(-1), (rows.shape[0],)).copy()
    return LinearSite(node.name, node.input[0], node.output[0], rows, bias, False)
