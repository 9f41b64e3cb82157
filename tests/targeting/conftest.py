from __future__ import annotations

import pytest
import torch
from torch import nn

from sslcli.data.source import DataSource


class Blobs:
    """Images of three classes, told apart by where they are bright."""

    def __init__(self, count, offset=0):
        generator = torch.Generator().manual_seed(11 + offset)
        self.targets = torch.arange(count) % 3
        self.images = 0.5 * torch.randn(count, 1, 8, 8, generator=generator)
        for number, target in enumerate(self.targets.tolist()):
            self.images[number, 0, 2 * target : 2 * target + 3] += 1.0

    def __len__(self):
        return len(self.targets)

    def batch(self, indices, *, seed=0, epoch=0):
        return self.images[indices], self.targets[indices]


class Net(nn.Module):
    """Two convolutions, a residual branch and a classifier."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3)
        self.conv2 = nn.Conv2d(12, 12, 3)
        self.branch = nn.Conv2d(12, 12, 3, padding=1)
        self.fc = nn.Linear(12 * 4 * 4, 3)

    def forward(self, x):
        x = self.conv2(self.conv1(x).relu()).relu()
        x = x + self.branch(x).relu()
        return self.fc(x.flatten(1))


@pytest.fixture
def data():
    return DataSource("blobs", Blobs(96), Blobs(96, 1), Blobs(48, 2), None, (1, 8, 8), ("a", "b", "c"))


@pytest.fixture
def example():
    return (torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Net()


@pytest.fixture
def trained(net, data, example):
    from sslcli.options.training import TrainOptions
    from sslcli.targeting import train

    return train(net, example, data, options=TrainOptions(epochs=8, lr=0.03), batch_size=16).model
