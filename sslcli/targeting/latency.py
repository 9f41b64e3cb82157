"""Latency as a target: a table of every layer at several widths, measured here, and what a cut makes of it.

The table says what each layer would cost with fewer filters and fewer input channels, and how much a layer
with dead columns gains by its best lowering. The sum over layers, plus what is not in any layer, estimates
the latency of a cut in microseconds of work; what is chosen in the end is exported and measured whole, and
the estimate corrected by it.

Reference:
    Yang et al., "NetAdapt", 2018 (layer-wise look-up tables); Yu et al., "AutoSlim", 2019.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from sslcli.bench import RunSettings, paired_ratio, time_models
from sslcli.bench.graphs import shaped_graph
from sslcli.bench.layers import match_layers
from sslcli.bench.sessions import least_model
from sslcli.graph.ops import bind, shape_of
from sslcli.graph.readers import Reader, readers
from sslcli.graph.slots import Structure
from sslcli.lowering import export_onnx, lower
from sslcli.surgery import prune
from sslcli.surgery.cut import Cut
from sslcli.targeting.left import executed, live
from sslcli.targeting.narrow import masked, narrowed
from sslcli.targeting.norms import Norm, settled
from sslcli.training.world import ALONE, World

_WIDTHS = (1.0, 0.75, 0.5, 0.25, 0.1)
_BLOCK = 16  # channels that the CPU's convolutions take at once, where they are that many
_FEW = 4  # blocks; of more, one makes less difference (at 64 filters a quarter), and each width takes time
_LIVE_COLUMNS = (0.5, 0.25, 0.1)
_TABLE = RunSettings(budget_s=0.3, rounds=1, warmup=1, min_blocks=1)
_WHOLE = RunSettings(budget_s=1.0, rounds=4)
_ON_THE_WAY = RunSettings(budget_s=0.5, rounds=4)
_LOWERED = RunSettings(budget_s=0.3)
_LOWERED_WHOLE_S = 0.6
_SHARE = 0.04  # of a run's time that all measuring may take before what can be left out is


@dataclass(frozen=True)
class LayerTimes:
    """One layer at several widths.

    Attributes:
        filters: numbers of filters that were timed, ascending.
        channels: numbers of input channels that were timed, ascending.
        ms: milliseconds of one sample without the call, one row for each number of filters; none more than
            those of a wider layer, as which it can be written.
        lowered: (share of live columns, time over dense) of its best lowering, ascending, the last (1, 1).
    """

    filters: tuple[int, ...]
    channels: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]
    lowered: tuple[tuple[float, float], ...] = ((1.0, 1.0),)

    def at(self, filters: float, channels: float) -> float:
        """Milliseconds at a width, linear between what was timed; at the least width for less than it."""
        across = [_between(self.channels, row, channels) for row in self.ms]
        return _between(self.filters, across, filters)

    def lowering(self, share: float) -> float:
        """What dead columns make of the time, linear between what was timed."""
        shares = [at for at, _ in self.lowered]
        return _between(shares, [factor for _, factor in self.lowered], max(share, shares[0]))


@dataclass(frozen=True)
class LatencyTable:
    """All layers of a network.

    Attributes:
        layers: by name.
        whole_ms: the whole dense model, exported, one sample on one thread.
        call_ms: what a call costs whatever is computed, part of ``whole_ms``.
    """

    layers: Mapping[str, LayerTimes]
    whole_ms: float
    call_ms: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        layers = {name: asdict(times) for name, times in self.layers.items()}
        return {"whole_ms": self.whole_ms, "call_ms": self.call_ms, "layers": layers}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LatencyTable:
        """From ``to_json``'s values."""
        layers = {name: _times(entry) for name, entry in value["layers"].items()}
        return cls(layers, float(value["whole_ms"]), float(value["call_ms"]))


class Latency:
    """The latency of one network on this host, estimated and measured.

    The table is measured when it is first asked for, unless that of an earlier start was put in its place.

    Args:
        model: as it is before training; a copy is kept.
        example: inputs that it can be traced with.
        structure: of the network.
        columns: whether dead columns may count.
        world: processes that train together; one of them measures for all.
        live: model whose buffers count as they are at each measurement (the statistics of norms decide what a
            removed filter leaves behind); default: those of ``model``.
        norms: whose statistics count as settled.
    """

    def __init__(
        self,
        model: nn.Module,
        example: tuple[Any, ...],
        structure: Structure,
        *,
        columns: bool = False,
        world: World = ALONE,
        live: nn.Module | None = None,
        norms: Sequence[Norm] = (),
    ) -> None:
        self.dense, self.example, self.world = copy.deepcopy(model).cpu().eval(), example, world
        self.live = live
        self.structure, self.columns = structure, columns
        self.layers, self.norms = readers(structure), list(norms)
        self._began, self._spent, self._one = time.monotonic(), 0.0, 0.0

    @functools.cached_property
    def table(self) -> LatencyTable:
        """The times of the layers; all processes ask at the same place."""
        table = None
        if self.world.writes:
            with self._timed():
                table = measure_table(self.exported, self.structure, columns=self.columns)
        shared = self.world.share(table)
        assert shared is not None
        return shared

    @functools.cached_property
    def exported(self) -> onnx.ModelProto:
        """The dense model, exported once: an export takes longer than what is timed of it."""
        return lower(export_onnx(self.dense, self.example), choice="dense").model

    def estimate(self, found: Cut, weights: Mapping[str, Tensor]) -> float:
        """The latency that a cut would leave, as a fraction of the dense one."""
        total, dense, written, outputs = 0.0, 0.0, 0, 0
        for layer in self.layers:
            times = self.table.layers.get(layer.layer)
            if times is None:
                continue
            dense += times.ms[-1][-1]
            outputs += math.prod(shape_of(layer.node))
            if executed(found, layer) == 0:
                continue
            size, source = found.size(layer.node), found.size(bind(layer.node)["input"])
            channel = -1 if layer.kind == "linear" else 1
            alive = live(found, layer, weights).any(1)
            share = float(alive.sum()) / max(alive.numel(), 1)
            total += times.at(size[channel], source[channel]) * times.lowering(share)
            written += math.prod(size)
        # layers that run alone start cold, so that those of a tiny network may sum up to more than the whole
        whole = max(self.table.whole_ms, dense + self.table.call_ms)
        rest = whole - dense - self.table.call_ms
        return (total + rest * written / max(outputs, 1) + self.table.call_ms) / whole

    def measure(self, weights: Mapping[str, Tensor], *, last: bool = False) -> float:
        """The latency that pruning ``weights`` leaves, of the exported model, as a fraction.

        Args:
            weights: by name, with zero groups.
            last: whether the run is judged by it; measured longer then.
        """
        found = None
        if self.world.writes:
            settings = _WHOLE if last else _ON_THE_WAY
            with self._timed():
                found = measured(self.exported, self._with(weights), self.example, settings)
        found = self.world.share(found)
        assert found is not None
        return found

    def affordable(self, position: float) -> bool:
        """Whether there is time to measure once more than must be, at the choice and at the end.

        Args:
            position: share of the penalised part that is done, above 0; all processes ask at the same place.
        """
        training = time.monotonic() - self._began - self._spent
        run = training / position + self._spent
        return self.world.share(self._spent + 3 * self._one <= _SHARE * run)

    def state(self) -> dict[str, Any]:
        """All that changes during a run."""
        clock = {"elapsed": time.monotonic() - self._began, "spent": self._spent, "one": self._one}
        return {"table": self.table.to_json(), "clock": clock}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; with its table, as times vary from one measurement to the next."""
        self.table = LatencyTable.from_json(state["table"])
        clock = state["clock"]
        self._began = time.monotonic() - clock["elapsed"]
        self._spent, self._one = clock["spent"], clock["one"]

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Note what a measurement takes; the last says what one more would."""
        before = time.monotonic()
        yield
        self._one = time.monotonic() - before
        self._spent += self._one

    def _with(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the model with other weights, and the buffers of the one that learns, settled."""
        small = copy.deepcopy(self.dense)
        own = {**dict(small.named_parameters()), **dict(small.named_buffers())}
        live = {} if self.live is None else dict(self.live.named_buffers())
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(weights.get(name, live.get(name, tensor)))
            for name, mean in settled(self.norms, own).items():
                own[name].copy_(mean)
        return small


def measure_table(proto: onnx.ModelProto, structure: Structure, *, columns: bool = False) -> LatencyTable:
    """Time the layers of a model on this host, one thread, batch 1.

    Args:
        proto: the model, exported dense; left as it is.
        structure: of the network, whose layers are looked for in the exported model.
        columns: time lowerings of layers with dead columns too.
    """
    serialized = proto.SerializeToString()
    whole = _median_ms(time_models([serialized], _ON_THE_WAY)[0].samples.ns)
    call = _median_ms(time_models([least_model()], replace(_TABLE, batch_size=2))[0].samples.ns)
    found, _ = match_layers(shaped_graph(serialized, _WHOLE), [])
    pieces = {pair.base.name: onnx.ModelProto.FromString(pair.base.model) for pair in found}
    timed: dict[Any, LayerTimes] = {}
    layers = {}
    for layer in readers(structure):
        piece = pieces.get(layer.layer)
        if piece is None or (layer.groups > 1 and not _one_to_one(layer)):
            continue  # stays in the rest, which is not attributed to anything
        key = _alike(piece)
        if key not in timed:
            timed[key] = _layer_times(piece, layer, columns, call)
        layers[layer.layer] = timed[key]
    return LatencyTable(layers, whole, call)


def measured(
    dense: onnx.ModelProto, small: nn.Module, example: tuple[Any, ...], settings: RunSettings
) -> float:
    """Latency of ``small``, pruned and exported, as a fraction of that of ``dense``, measured in turns."""
    pruned = prune(small, example, threshold=0.0)
    cut = lower(export_onnx(pruned.model, pruned.example), settings=_LOWERED, whole_s=_LOWERED_WHOLE_S).model
    protos = [dense, cut]
    base, other = time_models([proto.SerializeToString() for proto in protos], settings)
    return 1 / paired_ratio(base.samples.ns, other.samples.ns).value


def _layer_times(piece: onnx.ModelProto, layer: Reader, columns: bool, call: float) -> LayerTimes:
    block = None if layer.kind == "linear" else _BLOCK
    filters, channels = (widths(size, block) for size in layer.shape[:2])
    if layer.groups > 1:  # one to one; the second size of the weight is 1
        channels = (1,)
    elif layer.kind == "conv_transpose":
        filters, channels = channels, filters
    places = [(n, c) for n in filters for c in channels]
    models = [narrowed(piece, n, c, depthwise=layer.groups > 1).SerializeToString() for n, c in places]
    models.append(models[-1])  # all fractions are of the whole layer, and no wider one corrects its time
    medians = [_median_ms(timing.samples.ns) for timing in time_models(models, _TABLE)]
    medians[-2:] = [min(medians[-2:])]
    ms = np.maximum(np.array(medians).reshape(len(filters), len(channels)) - call, 0.0)
    taps = math.prod(layer.shape[2:])
    lowered = _lowered(piece) if columns and layer.kind == "conv" and taps > 1 and layer.groups == 1 else ()
    return LayerTimes(filters, channels, least_at(ms), (*lowered, (1.0, 1.0)))


def _one_to_one(layer: Reader) -> bool:
    """Whether each filter reads one channel, and no other filter that one."""
    return layer.groups == layer.rows.numel() == layer.columns.numel()


def _lowered(piece: onnx.ModelProto) -> tuple[tuple[float, float], ...]:
    factors = []
    for share in sorted(_LIVE_COLUMNS):
        speedup = lower(masked(piece, share), settings=_LOWERED, whole_s=_LOWERED_WHOLE_S).speedup
        factors.append((share, 1.0 if speedup is None else min(1.0, 1 / speedup.value)))
    return tuple(factors)


def widths(size: int, block: int | None = None) -> tuple[int, ...]:
    """Numbers of channels to time, ascending.

    One channel more than whole blocks of them costs nearly as much as a block more. So of each number within
    few blocks the whole blocks below it and one channel more are timed, which stand for all that its block
    may hold; what is not below one of the numbers stays on the line between its neighbours.
    """
    numbers = {max(1, round(width * size)) for width in _WIDTHS}
    if block:
        within = {number for number in numbers if block < number <= _FEW * block}
        below = {(number - 1) // block * block for number in within}
        partly = {number for number in within if number % block and number != size}
        numbers = (numbers - partly) | below | {number + 1 for number in below}
    return tuple(sorted(numbers))


def least_at(ms: np.ndarray[Any, np.dtype[Any]]) -> tuple[tuple[float, ...], ...]:
    """The least time of each width or any wider one, (filters, channels): zeros can be added to a layer."""
    down = np.minimum.accumulate(ms[::-1], axis=0)[::-1]
    return tuple(tuple(map(float, row)) for row in np.minimum.accumulate(down[:, ::-1], axis=1)[:, ::-1])


def _between(places: Sequence[float], values: Sequence[float], at: float) -> float:
    if at <= 0:
        return 0.0
    if at >= places[-1]:
        return values[-1]
    if at <= places[0]:
        return values[0]  # below what was timed nothing more is promised
    right = bisect_left(places, at)
    share = (at - places[right - 1]) / (places[right] - places[right - 1])
    return values[right - 1] + share * (values[right] - values[right - 1])


def _median_ms(ns: np.ndarray[Any, np.dtype[Any]]) -> float:
    return float(np.median(ns)) / 1e6


def _alike(piece: onnx.ModelProto) -> tuple[object, ...]:
    """Equal for layers that take equally long: the same op, attributes and shapes."""
    (node,) = [node for node in piece.graph.node if node.op_type not in ("Constant", "Identity")][-1:]
    shapes = tuple(tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in piece.graph.input)
    weights = tuple(tuple(tensor.dims) for tensor in piece.graph.initializer)
    attributes = tuple(sorted(a.SerializeToString() for a in node.attribute))
    return (node.op_type, attributes, shapes, weights)


def _times(entry: Mapping[str, Any]) -> LayerTimes:
    ms = tuple(tuple(row) for row in entry["ms"])
    lowered = tuple((share, factor) for share, factor in entry["lowered"])
    return LayerTimes(tuple(entry["filters"]), tuple(entry["channels"]), ms, lowered)
