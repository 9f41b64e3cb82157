"""What pruning now would leave of a network, as fractions of the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from sslcli.graph.ops import bind, shape_of
from sslcli.graph.readers import Reader, readers
from sslcli.graph.slots import Structure
from sslcli.surgery.cut import Cut, count, cut, macs_of, taken
from sslcli.targeting.norms import Norm, settled

Watch = Callable[[Mapping[str, Tensor]], Mapping[str, float]]
Estimate = Callable[[Cut, Mapping[str, Tensor]], float]


def watcher(
    structure: Structure,
    estimate: Estimate | None = None,
    model: nn.Module | None = None,
    norms: Sequence[Norm] = (),
) -> Watch:
    """A function from weights (on any device) to the fractions that pruning them now would leave.

    It gives ``macs`` (of the graph as it would be executed), ``macs_packed`` (of live rows x live columns of
    what would be left), ``params``, and ``latency`` where there is an estimate of it.

    Args:
        structure: of the network.
        estimate: latency of a cut, as a fraction.
        model: whose buffers count as they are at each call (the statistics of norms decide what a removed
            filter leaves behind); default: those of the structure.
        norms: whose statistics count as settled.
    """
    whole = count(None, structure)
    layers = readers(structure)
    dense = {layer.node: macs_of(layer.node, None) for layer in layers}
    batch = max(structure.program.batch_hint, 1)

    @torch.no_grad()
    def watch(parameters: Mapping[str, Tensor]) -> dict[str, float]:
        weights = dict(structure.program.weights())
        buffers = {} if model is None else dict(model.named_buffers(remove_duplicate=False))
        for name, value in (*buffers.items(), *parameters.items()):
            if name in weights:
                weights[name] = value.detach().cpu()
        weights.update(settled(norms, weights))
        found = cut(structure, weights)
        if found.dead:
            left = {"macs": 0.0, "macs_packed": 0.0, "params": 0.0}
            return {**left, "latency": 0.0} if estimate is not None else left
        now = count(found, structure)
        packed = sum(live_share(found, layer, weights) * dense[layer.node] for layer in layers)
        others = now.macs - sum(executed(found, layer) for layer in layers) / batch
        left = {
            "macs": now.macs / max(whole.macs, 1),
            "macs_packed": (others + packed / batch) / max(whole.macs, 1),
            "params": now.params / max(whole.params, 1),
        }
        return {**left, "latency": estimate(found, weights)} if estimate is not None else left

    return watch


def usable(left: Mapping[str, float]) -> bool:
    """Whether anything is left, by a watcher's fractions: where a cut takes every path, all of them are 0."""
    return any(value > 0 for value in left.values())


def executed(found: Cut, layer: Reader) -> int:
    """Multiply-accumulates of one use of a layer over the example's batch, after a cut."""
    if not found.is_needed(layer.node) or found.is_constant(layer.node):
        return 0
    return macs_of(layer.node, found)


def live_share(found: Cut, layer: Reader, weights: Mapping[str, Tensor]) -> float:
    """Live rows x live columns of a layer after a cut, group by group, as a share of all."""
    if executed(found, layer) == 0:
        return 0.0
    grouped = live(found, layer, weights)
    return float((grouped.any(2).sum(1) * grouped.any(1).sum(1)).sum()) / weights[layer.name].numel()


def live(found: Cut, layer: Reader, weights: Mapping[str, Tensor]) -> Tensor:
    """Which weights that a cut leaves of a layer are not zero, bool (groups, filters, columns) per group."""
    values = weights[layer.name] != 0
    if layer.groups == 1:
        values = taken(values, found.of(found.structure.program.placeholder(layer.name)))
    values = values.flatten(2) if values.dim() > 2 else values.unsqueeze(2)
    grouped = values.reshape(layer.groups, -1, *values.shape[1:])
    if layer.kind == "conv_transpose":
        grouped = grouped.transpose(1, 2)
    if layer.groups > 1:
        grouped = _of_groups(found, layer, grouped)
    return grouped.flatten(2)


def _of_groups(found: Cut, layer: Reader, values: Tensor) -> Tensor:
    """What a cut leaves of the weights (groups, filters, channels, taps) of a grouped convolution.

    The groups that stay have equal widths.
    """
    rows = _staying(found, layer.node).reshape(layer.groups, -1)
    columns = _staying(found, bind(layer.node)["input"]).reshape(layer.groups, -1)
    left = values[rows.unsqueeze(2) & columns.unsqueeze(1)]
    groups = max(int(rows.any(1).sum()), 1)
    return left.reshape(groups, int(rows.sum()) // groups, -1, values.shape[3])


def _staying(found: Cut, node: fx.Node) -> Tensor:
    """Which channels of a node a cut leaves, bool (channels,)."""
    kept = found.of(node).get(1)
    stays = torch.full((shape_of(node)[1],), kept is None)
    if kept is not None:
        stays[kept] = True
    return stays
