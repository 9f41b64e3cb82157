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
from typing import Any

from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from sslcli.graph.ops import bind, kind_of, shape_of
from sslcli.graph.slots import Structure
from sslcli.training.evaluate import mode


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


def find_norms(structure: Structure, model: nn.Module | None = None) -> list[Norm]:
    """The batch norms right behind a layer, with statistics of their own that learn.

    Args:
        structure: of the network.
        model: the network as it is trained, where norms may be kept in eval mode; None: none is.
    """
    names, kinds = structure.program.names(), structure.program.kinds()
    nodes = [node for node in structure.nodes if _kind(node) == "batch_norm"]
    uses = Counter(bind(node).get("running_mean") for node in nodes)
    found = []
    for node in nodes:
        given = bind(node)
        mean, layer = given.get("running_mean"), given["input"]
        if mean not in names or uses[mean] > 1 or given.get("momentum") == 0 or not _by_rows(layer):
            continue
        weight, bias = bind(layer)["weight"], bind(layer).get("bias")
        alone = bias is None or (bias in names and len(bias.users) == len(layer.users) == 1)
        if weight not in names or not alone or shape_of(weight)[0] != shape_of(mean)[0]:
            continue
        norm = Norm(names[weight], None if bias is None else names[bias], names[mean])
        layers = [kinds[name] for name in (norm.weight, norm.bias) if name is not None]
        if kinds[norm.mean] == InputKind.BUFFER and all(kind == InputKind.PARAMETER for kind in layers):
            found.append(norm)
    return found if model is None else _learning(found, model)


def settled(norms: Sequence[Norm], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that change, as they will be: running means of zero filters, and their layers' biases.

    In training a norm takes away the bias of the layer before, so that without it nothing changes.

    Args:
        norms: of the network.
        tensors: parameters and buffers by name.
    """
    found = {}
    for norm in norms:
        zero = (tensors[norm.weight] == 0).flatten(1).all(1)
        for name in (norm.mean, norm.bias):
            if name is None:
                continue
            mask = zero.to(tensors[name].device)
            if bool((mask & (tensors[name] != 0)).any()):
                found[name] = tensors[name].detach().masked_fill(mask, 0)
    return found


def _by_rows(layer: Any) -> bool:
    """Whether a layer's filters are what axis 1 of its outputs counts, as a norm behind it does."""
    if not isinstance(layer, fx.Node):
        return False
    kind, rank = _kind(layer), len(shape_of(layer)) if layer.op == "call_function" else 0
    return (kind == "linear" and rank == 2) or (
        kind == "conv" and rank == len(shape_of(bind(layer)["weight"]))
    )


def _learning(norms: Sequence[Norm], model: nn.Module) -> list[Norm]:
    """Without the norms that stay in eval mode while the model trains."""
    modules = dict(model.named_modules(remove_duplicate=False))
    with mode(model, training=True):
        frozen = {name for name, module in modules.items() if not module.training}
    return [norm for norm in norms if norm.mean.rpartition(".")[0] not in frozen]


def _kind(node: fx.Node) -> str:
    return kind_of(node) if node.op == "call_function" else ""
