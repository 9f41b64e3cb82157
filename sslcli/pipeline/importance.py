"""How much the loss would change without a weight, to first order; and the training batches to tell by."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from sslcli.data import DataSource, epoch_order
from sslcli.training.evaluate import mode
from sslcli.training.task import Task, classification, learned_loss

BATCHES = 20


def taylor(
    model: nn.Module,
    source: DataSource,
    batch_size: int,
    seed: int,
    task: Task | None = None,
    batches: int = BATCHES,
) -> dict[str, Tensor]:
    """(w * dL/dw)^2 of every element, the mean over batches, by parameter name.

    Reference:
        Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8.
    """
    task = task or classification()
    copied = copy.deepcopy(model)
    parameters = dict(copied.named_parameters())
    scores = {name: parameter.detach().clone().zero_() for name, parameter in parameters.items()}
    with mode(copied, training=False):
        for inputs, targets in training_batches(source, batches, batch_size, seed):
            copied.zero_grad()
            loss = learned_loss(task, task.forward(copied, inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    scores[name] += (parameter.detach() * parameter.grad).square() / batches
    return scores


def training_batches(
    source: DataSource, batches: int, batch_size: int, seed: int
) -> Iterator[tuple[Any, Any]]:
    """The first batches of the first epoch of training."""
    split = source.split("train")
    order = epoch_order(len(split), seed, 0)
    for start in range(0, min(batches * batch_size, len(split)), batch_size):
        yield split.batch(order[start : start + batch_size], seed=seed, epoch=0)
