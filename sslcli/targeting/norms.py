"""What norms make of removed filters: the constant that stays of each, once their statistics have settled.

A filter that is zero gives 0 at every place, so in training its batch norm gives its bias. The running mean
still is that of the living filter and goes to 0 over the next hundred steps; until then the constant seems
to be something else, a next convolution with padding seems to need a channel to carry it, and what pruning
saves looks less than it is about to be. So the running means of such filters count as 0, and are put to 0
when groups go for good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from sslcli.graph.ops import bind, kind_of
from sslcli.graph.slots import Structure


@dataclass(frozen=True)
class Norm:
    """A batch norm of what a convolution or linear layer gives, by the names of its tensors.

    Attributes:
        weight: of the layer, (filters, ...).
        bias: of the layer, None without one.
        mean: the norm's running mean, (filters,).
    """

    weight: str
    bias: str | None
    mean: str


def find_norms(structure: Structure) -> list[Norm]:
    """The batch norms right behind a layer, with statistics of their own."""
    names = structure.program.names()
    nodes = [node for node in structure.nodes if _kind(node) == "batch_norm"]
    uses = Counter(bind(node).get("running_mean") for node in nodes)
    found = []
    for node in nodes:
        mean, layer = bind(node).get("running_mean"), bind(node)["input"]
        if mean not in names or uses[mean] > 1 or _kind(layer) not in ("conv", "linear"):
            continue
        weight, bias = bind(layer)["weight"], bind(layer).get("bias")
        if weight in names and (bias is None or bias in names):
            found.append(Norm(names[weight], None if bias is None else names[bias], names[mean]))
    return found


def settled(norms: Sequence[Norm], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The running means that change, as they will be.

    Args:
        norms: of the network.
        tensors: parameters and buffers by name.
    """
    found = {}
    for norm in norms:
        mean = tensors[norm.mean]
        zero = (tensors[norm.weight] == 0).flatten(1).all(1)
        if norm.bias is not None:
            zero = zero & (tensors[norm.bias] == 0)
        zero = zero.to(mean.device)
        if bool((zero & (mean != 0)).any()):
            found[norm.mean] = mean.masked_fill(zero, 0)
    return found


def _kind(node: fx.Node) -> str:
    return kind_of(node) if node.op == "call_function" else ""
