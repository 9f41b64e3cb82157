"""Pass: filters of zeros are added where kernels want the number of channels to be a multiple of something.

ONNX Runtime computes a convolution in its fast blocked layout only where the channels are a multiple of four,
and works in blocks of 8 or 16 of them; pruning leaves any number. What is added writes constants that nobody
reads: every reader gets columns of zeros for it. So all layers that write one value, such as the branches of
a residual sum, are padded together, and one whose value leaves the graph, or is read in a way that mixes
channels otherwise, stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from sslcli.lowering import protos
from sslcli.lowering.drop_channels import PASSING, flatten, own_constant
from sslcli.lowering.protos import Array
from sslcli.lowering.sites import infer_shapes

# Element by element, and finite for zeros.
_JOINING = frozenset({"Add", "Sub", "Mul", "Sum", "Max", "Min"})
_POOLING = frozenset({"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"})
_MOST_GROWTH = 1.5
_CHANNELS_FIRST = 3  # axes of what has places behind the channels


@dataclass(frozen=True)
class _View:
    """A graph as it was when the pass began; nodes and their wiring stay.

    Attributes:
        graph: the graph.
        known: its constants, which change in place.
        uses: how often each value is read.
        shapes: of values, before anything was padded.
    """

    graph: onnx.GraphProto
    known: dict[str, onnx.TensorProto]
    uses: Counter[str]
    shapes: Mapping[str, tuple[int | None, ...]]


@dataclass
class _Family:
    """The layers that one set of channels concerns.

    Attributes:
        writers: convolutions whose filters they are.
        depthwise: convolutions that take each channel by itself.
        readers: Conv, Gemm or MatMul that mix them, and how many columns a channel has there.
    """

    writers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    depthwise: dict[str, onnx.NodeProto] = field(default_factory=dict)
    readers: dict[str, tuple[onnx.NodeProto, int]] = field(default_factory=dict)


def pad_channels(model: onnx.ModelProto, *, block: int) -> tuple[onnx.ModelProto, dict[str, int]]:
    """A copy whose channels are multiples of ``block``, and how many filters each layer got for it.

    Args:
        model: constants must be initialisers.
        block: what the filters of a layer are rounded up to, where they grow by half at most.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    flatten(changed)
    graph = changed.graph
    view = _View(graph, protos.constants(graph), protos.uses(graph), infer_shapes(changed))
    del changed.graph.value_info[:]
    added: dict[str, int] = {}
    seen: set[str] = set()
    for node in graph.node:
        if node.name in seen or node.op_type != "Conv" or not _is_writer(view, node):
            continue
        filters = int(view.known[node.input[1]].dims[0])
        wanted = -(-filters // block) * block
        family = _family(view, node, filters)
        if family is None:
            continue
        seen.update(family.writers)
        if filters < wanted <= filters * _MOST_GROWTH:
            _pad(graph, family, filters, wanted)
            added |= dict.fromkeys([*family.writers, *family.depthwise], wanted - filters)
    return changed, added


def _family(view: _View, start: onnx.NodeProto, channels: int) -> _Family | None:
    """All layers that share the filters of ``start``; None where one of them cannot be padded."""
    found, seen = _Family(), set[tuple[str, bool]]()
    graph, shapes = view.graph, view.shapes
    writers, readers, ends = protos.producers(graph), protos.consumers(graph), protos.outputs(graph)
    queue = [(start.output[0], False)]
    while queue:
        entry = queue.pop()
        if entry in seen:
            continue
        value, is_flat = entry
        seen.add(entry)
        shape = shapes.get(value, ())
        if value in ends or not readers.get(value) or value not in writers:
            return None
        if not is_flat:
            if len(shape) < _CHANNELS_FIRST or shape[1] != channels:
                return None
            above = _above(view, writers[value], channels, found)
            if above is None:
                return None
            queue += [(name, False) for name in above]
        for reader in readers[value]:
            below = _below(view, reader, entry, channels, found)
            if below is None:
                return None
            queue += below
    return found


def _above(view: _View, node: onnx.NodeProto, channels: int, found: _Family) -> list[str] | None:
    """The values that a writer has its channels from, none for a layer; None where it is unfit."""
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    if _is_depthwise(view, node, channels):
        found.depthwise[node.name] = node
        return [node.input[0]]
    if node.op_type == "Conv" and _is_writer(view, node):
        found.writers[node.name] = node
        return []
    if node.op_type in PASSING or _pools(view, node):
        return [node.input[0]]
    return list(node.input) if _joins(view, node) else None


def _below(
    view: _View, node: onnx.NodeProto, entry: tuple[str, bool], channels: int, found: _Family
) -> list[tuple[str, bool]] | None:
    """The values that a reader hands channels on to, none for one that mixes them; None where it is unfit."""
    value, is_flat = entry
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    if not is_flat and _joins(view, node):
        return [(node.output[0], False)]
    if node.input[0] != value or list(node.input).count(value) != 1:
        return None
    if node.op_type in PASSING:
        return [(node.output[0], is_flat)]
    if node.op_type == "Flatten" and not is_flat and protos.integer(node, "axis", 1) == 1:
        return [(node.output[0], True)]
    if not is_flat and _pools(view, node):
        return [(node.output[0], not protos.integer(node, "keepdims", 1))]
    if not is_flat and _is_depthwise(view, node, channels):
        return [(node.output[0], False)]
    columns = _columns(view, node, is_flat, channels)
    if columns is None:
        return None
    found.readers[node.name] = node, columns
    return []


def _joins(view: _View, node: onnx.NodeProto) -> bool:
    """Whether a node takes its inputs element by element, the channels of all on the same axis."""
    return node.op_type in _JOINING and len({len(view.shapes.get(name, ())) for name in node.input}) == 1


def _pools(view: _View, node: onnx.NodeProto) -> bool:
    """Whether a node reduces all places of each channel to one."""
    if node.op_type not in _POOLING:
        return False
    axes = protos.integers(node, "axes", [])
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in view.known:
            return False
        axes = protos.array(view.known[node.input[1]]).tolist()
    rank = len(view.shapes.get(node.input[0], ()))
    return rank >= _CHANNELS_FIRST and sorted(axis % rank for axis in axes) == list(range(2, rank))


def _columns(view: _View, node: onnx.NodeProto, is_flat: bool, channels: int) -> int | None:
    """How many columns a channel has in a layer that mixes channels; None for another node."""
    weight = own_constant(view.uses, view.known, node, 1)
    if weight is None:
        return None
    if node.op_type == "Conv" and not is_flat:
        return 1 if protos.integer(node, "group", 1) == 1 else None
    is_product = node.op_type == "MatMul" or (
        node.op_type == "Gemm" and not protos.integer(node, "transA", 0)
    )
    if not is_flat or not is_product or weight.ndim != 2:
        return None
    features = int(weight.shape[_feature_axis(node)])
    return features // channels if features % channels == 0 else None


def _feature_axis(node: onnx.NodeProto) -> int:
    return 1 if node.op_type == "Conv" or protos.integer(node, "transB", 0) else 0


def _is_writer(view: _View, node: onnx.NodeProto) -> bool:
    return protos.integer(node, "group", 1) == 1 and _weights(view, node) is not None


def _is_depthwise(view: _View, node: onnx.NodeProto, channels: int) -> bool:
    if node.op_type != "Conv" or protos.integer(node, "group", 1) != channels or channels == 1:
        return False
    found = _weights(view, node)
    return found is not None and found[0].shape[:2] == (channels, 1)


def _weights(view: _View, node: onnx.NodeProto) -> tuple[Array, Array | None] | None:
    """Weight and bias of a convolution that owns both; None where one is computed or shared."""
    weight = own_constant(view.uses, view.known, node, 1)
    has_bias = len(node.input) > 2 and bool(node.input[2])
    bias = own_constant(view.uses, view.known, node, 2) if has_bias else None
    return None if weight is None or (has_bias and bias is None) else (weight, bias)


def _pad(graph: onnx.GraphProto, family: _Family, channels: int, wanted: int) -> None:
    for node in (*family.writers.values(), *family.depthwise.values()):
        for position in range(1, len(node.input)):
            if node.input[position]:
                _extend(graph, node.input[position], 0, wanted - channels)
    for node in family.depthwise.values():
        protos.set_attribute(node, "group", wanted)
    for node, columns in family.readers.values():
        _extend(graph, node.input[1], _feature_axis(node), columns * (wanted - channels))


def _extend(graph: onnx.GraphProto, name: str, axis: int, count: int) -> None:
    """Append zeros to a constant."""
    values = protos.array(protos.constants(graph)[name])
    shape = (*values.shape[:axis], count, *values.shape[axis + 1 :])
    protos.set_constant(graph, name, np.concatenate([values, np.zeros(shape, values.dtype)], axis))
