"""What pruning now would leave of a network, as fractions of the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sslcli.graph.readers import Reader, readers
from sslcli.graph.slots import Structure
from sslcli.surgery.cut import Cut, count, cut, macs_of, taken

Watch = Callable[[Mapping[str, Tensor]], Mapping[str, float]]
Estimate = Callable[[Cut, Mapping[str, Tensor]], float]


def watcher(structure: Structure, estimate: Estimate | None = None, model: nn.Module | None = None) -> Watch:
    """A function from weights (on any device) to the fractions that pruning them now would leave.

    It gives ``macs`` (of the graph as it would be executed), ``macs_packed`` (of live rows x live columns of
    what would be left), ``params``, and ``latency`` where there is an estimate of it.

    Args:
        structure: of the network.
        estimate: latency of a cut, as a fraction.
        model: whose buffers count as they are at each call (the statistics of norms decide what a removed
            filter leaves behind); default: those of the structure.
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
    """Which of a layer's weights are not zero after a cut, bool (groups, filters, columns) per group.

    Of a grouped convolution the zeros count, but not what only the cut takes.
    """
    kept = found.of(found.structure.program.placeholder(layer.name)) if layer.groups == 1 else {}
    values = taken(weights[layer.name], kept) != 0
    values = values.flatten(2) if values.dim() > 2 else values.unsqueeze(2)
    if layer.kind == "conv_transpose":
        values = values.reshape(layer.groups, -1, *values.shape[1:]).transpose(1, 2).flatten(0, 1)
    return values.reshape(layer.groups, -1, values.shape[1] * values.shape[2])
