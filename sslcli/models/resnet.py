"""Residual networks for CIFAR-10 (He et al. 2016, section 4.2), post-activation.

The names of weights are those of the widely shared public checkpoints: conv1, bn1,
layer1.0.conv1, layer1.0.bn1, ..., linear.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from sslcli.errors import ModelError
from sslcli.models.initialise import he_normal_

Shortcut = Literal["A", "B"]


class PaddedShortcut(nn.Module):
    """Option A: every second pixel, and zero channels on both sides; no parameters."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        before = self.extra // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.extra - before))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with norm, added to the shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """6n + 2 layers in three stages of 16, 32 and 64 filters.

    Args:
        blocks: residual blocks per stage (n): 3 for ResNet-20, 5 for ResNet-32.
        classes: number of outputs.
        shortcut: where the width changes, "A": padded with zeros, without parameters (as the public
            checkpoints); "B": a 1x1 stride-2 convolution without norm (as the nets released with the paper).

    Shape:
        - Input: (N, 3, 32, 32)
        - Output: (N, classes), logits
    """

    def __init__(self, blocks: int, classes: int = 10, shortcut: Shortcut = "A") -> None:
        super().__init__()
        if shortcut not in ("A", "B"):
            raise ModelError(f"resnet has no shortcut {shortcut!r}", "choose A (padded) or B (projection)")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1, shortcut)
        self.layer2 = _stage(16, 32, blocks, 2, shortcut)
        self.layer3 = _stage(32, 64, blocks, 2, shortcut)
        self.linear = nn.Linear(64, classes)
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def resnet20(classes: int = 10, shortcut: Shortcut = "A") -> ResNet:
    """ResNet-20: 3 blocks a stage."""
    return ResNet(3, classes, shortcut)


def resnet32(classes: int = 10, shortcut: Shortcut = "A") -> ResNet:
    """ResNet-32: 5 blocks a stage."""
    return ResNet(5, classes, shortcut)


def resnet44(classes: int = 10, shortcut: Shortcut = "A") -> ResNet:
    """ResNet-44: 7 blocks a stage."""
    return ResNet(7, classes, shortcut)


def resnet56(classes: int = 10, shortcut: Shortcut = "A") -> ResNet:
    """ResNet-56: 9 blocks a stage."""
    return ResNet(9, classes, shortcut)


def _stage(inputs: int, width: int, blocks: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = BasicBlock(inputs, width, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(width, width, 1, shortcut) for _ in range(blocks - 1)))


def _shortcut(inputs: int, width: int, stride: int, kind: Shortcut) -> nn.Module:
    if stride == 1 and inputs == width:
        return nn.Sequential()
    if kind == "A":
        return PaddedShortcut(width - inputs, stride)
    return nn.Conv2d(inputs, width, 1, stride, bias=False)
