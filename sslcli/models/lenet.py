"""The two networks of the paper for MNIST: LeNet and a multilayer perceptron."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from sslcli.models.initialise import caffe_uniform_


class LeNet(nn.Module):
    """Caffe's LeNet: no ReLU after the convolutions.

    Shape:
        - Input: (N, 1, 28, 28)
        - Output: (N, classes), logits
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, classes)
        caffe_uniform_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """784-500-300-10 with ReLU between the layers.

    Shape:
        - Input: (N, 1, 28, 28), flattened inside
        - Output: (N, classes), logits
    """

    def __init__(self, classes: int = 10, hidden: Sequence[int] = (500, 300)) -> None:
        super().__init__()
        widths = [28 * 28, *hidden, classes]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        caffe_uniform_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)  # type: ignore[no-any-return]
