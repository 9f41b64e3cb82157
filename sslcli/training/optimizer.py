"""The optimisers, and the step size that the proximal operator takes from them."""

from __future__ import annotations

import torch
from torch import nn

from sslcli.options.training import TrainOptions


def build_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """SGD or AdamW over all parameters that are trained; biases and norms get no weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr)
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use ``lr`` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def prox_step_size(options: TrainOptions, lr: float) -> float:
    """The step size of the proximal operator at learning rate ``lr``.

    Momentum repeats a gradient with a total weight of 1 / (1 - momentum), so under SGD the penalty is
    given the same weight: a strength then means what it means in the penalised objective. Under AdamW
    the step is ``lr`` and strengths are in other units, since gradients are rescaled.
    """
    return lr if options.optimizer == "adamw" else lr / (1 - options.momentum)
