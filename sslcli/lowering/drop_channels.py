"""Pass: filters whose output nobody needs go, and with them the columns that read them.

A filter (of a convolution, or a row of a Gemm) can go when (1) every reader holds zeros where it reads the
filter, or (2) the filter and its bias are zero and everything between it and its readers keeps zero at zero.
Readers are convolutions and, after a Flatten or a Gemm, Gemm and MatMul. Groups stay equal: where one loses
fewer filters than another, dead ones stay in the other. A value that anything else reads, or that leaves the
graph, stays whole.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx

from sslcli.lowering import protos
from sslcli.lowering.clean import drop_dead
from sslcli.lowering.patterns import Flags, Indices, alive
from sslcli.lowering.protos import Array
from sslcli.lowering.sites import infer_shapes

# Operators that work channel by channel and give zero for zero.
_ZERO_STAYS = frozenset(
    {"Relu", "LeakyRelu", "HardSwish", "Tanh", "MaxPool", "AveragePool", "GlobalAveragePool", "Dropout"}
    | {"GlobalMaxPool", "Elu", "Selu", "Softsign", "Erf"}
)
PASSING = _ZERO_STAYS | {"Sigmoid", "HardSigmoid", "Softplus", "Clip"}
_MOST_ROUNDS = 20


@dataclass(frozen=True)
class _Reader:
    """A node that mixes channels.

    Attributes:
        node: Conv, Gemm or MatMul.
        columns_per_channel: of a product's weight, the columns that one channel was flattened to.
    """

    node: onnx.NodeProto
    columns_per_channel: int

    @property
    def groups(self) -> int:
        """Groups that the channels are read in."""
        return protos.integer(self.node, "group", 1) if self.node.op_type == "Conv" else 1


def drop_channels(model: onnx.ModelProto, *, block: int = 1) -> tuple[onnx.ModelProto, dict[str, int]]:
    """A copy without dead filters, and how many went from each layer that lost any.

    Args:
        model: constants must be initialisers.
        block: what remains of a layer is rounded up to a multiple of this by dead filters that stay.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    flatten(changed)
    del changed.graph.value_info[:]
    uses = protos.uses(changed.graph)  # nodes stay, so it holds for the whole pass
    gone: dict[str, int] = {}
    for _ in range(_MOST_ROUNDS):
        before = sum(gone.values())
        for node in changed.graph.node:
            if node.op_type in ("Conv", "Gemm"):
                count = _drop(changed.graph, node, block, uses)
                if count:
                    gone[node.name] = gone.get(node.name, 0) + count
        if sum(gone.values()) == before:
            break
    return changed, gone


def _drop(graph: onnx.GraphProto, node: onnx.NodeProto, block: int, uses: Counter[str]) -> int:
    """Drop the dead filters of one layer; how many went."""
    known = protos.constants(graph)
    weight = own_constant(uses, known, node, 1)
    bias = own_constant(uses, known, node, 2)
    has_bias = len(node.input) > 2 and bool(node.input[2])
    if weight is None or (has_bias and (bias is None or bias.ndim != 1)):
        return 0
    rows_last = node.op_type == "Gemm" and not protos.integer(node, "transB", 0)
    if rows_last:
        weight = weight.T
    found = _readers(graph, node, known, len(weight), uses)
    if found is None or (bias is not None and len(bias) != len(weight)):
        return 0
    readers, zero_stays = found
    read = np.zeros(len(weight), bool)
    for reader in readers:
        read |= _reads(reader, protos.array(known[reader.node.input[1]]), len(weight))
    silent = ~alive(weight.reshape(len(weight), -1), 1)
    if bias is not None:
        silent &= bias == 0
    dead = ~read | silent if zero_stays else ~read
    groups = math.lcm(protos.integer(node, "group", 1), *(reader.groups for reader in readers))
    kept = _kept(dead, groups, block)
    if len(kept) == len(weight):
        return 0
    protos.set_constant(graph, node.input[1], weight[kept].T if rows_last else weight[kept])
    if bias is not None:
        protos.set_constant(graph, node.input[2], bias[kept])
    for reader in readers:
        _keep_columns(graph, reader, protos.array(known[reader.node.input[1]]), kept)
    return len(weight) - len(kept)


def _kept(dead: Flags, groups: int, block: int) -> Indices:
    """The filters that stay: the same number in each of ``groups`` equal blocks of them."""
    if len(dead) % groups:
        return np.arange(len(dead))
    blocks = dead.reshape(groups, -1)
    widest = max(1, int((~blocks).sum(axis=1).max()))
    width = min(blocks.shape[1], -(-widest // block) * block)
    # Stable: the live ones first, each kind in its order.
    chosen = np.sort(np.argsort(blocks, axis=1, kind="stable")[:, :width], axis=1)
    found: Indices = (chosen + np.arange(groups)[:, None] * blocks.shape[1]).reshape(-1)
    return found


def own_constant(
    uses: Counter[str], known: dict[str, onnx.TensorProto], node: onnx.NodeProto, position: int
) -> Array | None:
    """The values of an input that is a constant and that only this node reads."""
    if position >= len(node.input) or node.input[position] not in known:
        return None
    name = node.input[position]
    return protos.array(known[name]) if uses[name] == 1 else None


def _readers(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    known: dict[str, onnx.TensorProto],
    filters: int,
    uses: Counter[str],
) -> tuple[list[_Reader], bool] | None:
    """The mixing nodes below a layer, and whether zero stays zero until there; None if one is unfit."""
    by_value, ends = protos.consumers(graph), protos.outputs(graph)
    readers: list[_Reader] = []
    zero_stays = True
    values = [(node.output[0], node.op_type == "Gemm")]
    while values:
        value, is_flat = values.pop()
        if value in ends or not by_value.get(value):
            return None
        for other in by_value[value]:
            step = _step(other, value, is_flat, known, filters, uses)
            if step is None:
                return None
            if isinstance(step, _Reader):
                readers.append(step)
                continue
            zero_stays &= _keeps_zero(other, known)
            values.append((other.output[0], is_flat or other.op_type == "Flatten"))
    return readers, zero_stays


def _step(
    other: onnx.NodeProto,
    value: str,
    is_flat: bool,
    known: dict[str, onnx.TensorProto],
    filters: int,
    uses: Counter[str],
) -> _Reader | bool | None:
    """What a node that reads a value is: a reader, a passage (True), or unfit (None)."""
    if other.domain not in ("", "ai.onnx") or list(other.input).count(value) != 1 or other.input[0] != value:
        return None
    if other.op_type in PASSING and len(other.output) == 1:
        return True
    if other.op_type == "Flatten" and not is_flat and protos.integer(other, "axis", 1) == 1:
        return True
    weight = own_constant(uses, known, other, 1)
    if weight is None:
        return None
    if other.op_type == "Conv" and not is_flat:
        return _Reader(other, 1)
    if other.op_type in ("Gemm", "MatMul") and is_flat and not protos.integer(other, "transA", 0):
        if weight.ndim != 2:
            return None
        features = weight.shape[1 if protos.integer(other, "transB", 0) else 0]
        return _Reader(other, features // filters) if features % filters == 0 else None
    return None


def _keeps_zero(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type != "Clip":
        return node.op_type in _ZERO_STAYS or node.op_type == "Flatten"
    bounds = [protos.array(known[name]) if name in known else None for name in node.input[1:]]
    low, high = (*bounds, None, None)[:2]
    computed = [name for name in node.input[1:] if name and name not in known]
    below = low is None or bool(low.max() <= 0)
    above = high is None or bool(high.min() >= 0)
    return not computed and below and above


def flatten(model: onnx.ModelProto) -> None:
    """Write every Reshape that keeps the batch and joins all else as Flatten, which states no size."""
    graph, shapes = model.graph, infer_shapes(model)
    known = protos.constants(graph)
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in known:
            continue
        shape, source = protos.array(known[node.input[1]]).tolist(), shapes.get(node.input[0], ())
        inner = [size for size in source[1:] if size is not None]
        if len(shape) != 2 or len(source) < 3 or len(inner) != len(source) - 1:
            continue
        batch_stays = shape[0] in (-1, 0) and shape[1] in (-1, int(np.prod(inner)))
        says_empty = 0 in shape and protos.integer(node, "allowzero", 0)
        if batch_stays and not says_empty and shape != [-1, -1]:
            node.op_type = "Flatten"
            del node.input[1:]
            del node.attribute[:]
    drop_dead(graph)


def _reads(reader: _Reader, weight: Array, filters: int) -> Flags:
    """(filters,): which channels the reader has anything but zeros for."""
    if reader.node.op_type == "Conv":
        grouped = weight.reshape(reader.groups, -1, *weight.shape[1:])
        return alive(grouped, (1, *range(3, grouped.ndim))).reshape(-1)
    axis = 1 if protos.integer(reader.node, "transB", 0) else 0
    return alive(np.moveaxis(weight, axis, 0).reshape(filters, -1), 1)


def _keep_columns(graph: onnx.GraphProto, reader: _Reader, weight: Array, kept: Indices) -> None:
    if reader.node.op_type == "Conv":
        # Group g reads its own share of the channels, so it keeps the same share of `kept`.
        per_group = kept.reshape(reader.groups, -1) % weight.shape[1]
        parts = np.split(weight, reader.groups)
        kept_parts = [part[:, own] for part, own in zip(parts, per_group, strict=True)]
        protos.set_constant(graph, reader.node.input[1], np.concatenate(kept_parts))
        return
    axis = 1 if protos.integer(reader.node, "transB", 0) else 0
    each = np.arange(reader.columns_per_channel)
    columns = (kept[:, None] * reader.columns_per_channel + each).reshape(-1)
    protos.set_constant(graph, reader.node.input[1], np.take(weight, columns, axis=axis))
