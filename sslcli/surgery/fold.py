"""Constants of removed channels, taken up by the readers: into a bias where that is exact, else merged.

1. A reader without zero padding sees a removed constant channel as the same number everywhere: it goes into
   the bias, or into the running mean of the batch norm behind a reader without one, or into a new bias.
2. Under zero padding the number is missing at the border, so all removed constants of a tensor are merged
   into one constant channel that stays: its kernel becomes the sum of theirs, weighted by the constants.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from sslcli.graph.ops import bind, kind_of
from sslcli.surgery.cut import Cut, removed_constants, running_mean_behind
from sslcli.surgery.known import conv_matrices
from sslcli.surgery.need import Folding


@dataclass
class Folded:
    """Weights that change before they are sliced, and biases that must be made."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    new_bias: dict[fx.Node, Tensor] = field(default_factory=dict)


def fold(found: Cut) -> Folded:
    """Let every reader take up the constants of the channels that a cut removes."""
    folded = Folded()
    for folding in found.needs.foldings:
        removed = removed_constants(found, folding)
        if not bool(removed.any()):
            continue
        if folding.uniform:
            _into_bias(found, folding, removed, folded)
        else:
            _into_channel(found, folding, removed, folded)
    return folded


def _into_bias(found: Cut, folding: Folding, removed: Tensor, folded: Folded) -> None:
    arguments, names = bind(folding.node), found.structure.program.names()
    weight = found.values.full(arguments["weight"])
    assert weight is not None
    number = torch.where(removed, folding.number, 0.0)
    if kind_of(folding.node) == "linear":
        added = weight @ number
    else:
        groups = int(arguments["groups"])
        _, total = conv_matrices(weight, groups)
        added = (total @ number.reshape(groups, -1, 1)).reshape(-1)
    if arguments["bias"] is not None:
        _add(found, folded, names[arguments["bias"]], added)
        return
    mean = running_mean_behind(found, folding.node)
    if mean is not None:
        _add(found, folded, names[mean], -added)
    else:
        folded.new_bias[folding.node] = folded.new_bias.get(folding.node, 0.0) + added


def _into_channel(found: Cut, folding: Folding, removed: Tensor, folded: Folded) -> None:
    arguments, names = bind(folding.node), found.structure.program.names()
    name, groups = names[arguments["weight"]], int(arguments["groups"])
    weight = _changed(found, folded, name)
    width = len(removed) // groups
    transposed = kind_of(folding.node) == "conv_transpose"
    for group, keeper in found.merges[folding.node].items():
        channels = torch.nonzero(removed[group * width : (group + 1) * width]).reshape(-1) + group * width
        factor = folding.number[channels] / folding.number[keeper]
        if transposed:
            weight[keeper] += torch.einsum("c,c...->...", factor, weight[channels])
        else:
            rows = slice(group * (len(weight) // groups), (group + 1) * (len(weight) // groups))
            inside = channels - group * width
            merged = torch.einsum("c,nc...->n...", factor, weight[rows][:, inside])
            weight[rows, keeper - group * width] += merged
    folded.weights[name] = weight


def _add(found: Cut, folded: Folded, name: str, added: Tensor) -> None:
    folded.weights[name] = _changed(found, folded, name) + added


def _changed(found: Cut, folded: Folded, name: str) -> Tensor:
    return (
        folded.weights[name]
        if name in folded.weights
        else found.values.weights[name].detach().double().clone()
    )
