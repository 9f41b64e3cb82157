"""Initial weights of the paper's networks."""

from __future__ import annotations

import math

from torch import nn


def caffe_uniform_(model: nn.Module) -> None:
    """Caffe's `xavier` filler: uniform with variance 1 / fan_in, biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = math.sqrt(3 / module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def he_normal_(model: nn.Module) -> None:
    """Normal with variance 2 / fan_in (He et al. 2015), biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
