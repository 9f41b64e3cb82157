"""Computing in channels-last layout, on weights that stay as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_IMAGES = 4  # axes of a batch of images and of the weight of a 2d convolution


class ChannelsLast(nn.Module):
    """A model that computes on channels-last copies of its images and convolution weights.

    The weights themselves keep their layout, since groups are views of them; gradients reach them through
    the copies, which cost far less than the faster convolutions gain.

    Args:
        model: what is called; its parameters stay where they are.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> Any:
        """The model's outputs."""
        named = self.model.named_parameters()
        weights = {name: _last(weight) for name, weight in named if weight.dim() == _IMAGES}
        return torch.func.functional_call(self.model, weights, tuple(map(_last, inputs)))


def _last(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.dim() != _IMAGES:
        return value
    return value.contiguous(memory_format=torch.channels_last)
