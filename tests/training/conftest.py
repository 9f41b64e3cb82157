from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sslcli.data.source import DataSource
from sslcli.graph.groups import GroupSet, GroupView
from sslcli.options.training import TrainOptions
from sslcli.training.loop import fit


class Blobs:
    """Images of three classes, told apart by where they are bright; with noise that depends on the epoch."""

    def __init__(self, count, offset=0, noisy=False):
        generator = torch.Generator().manual_seed(11 + offset)
        self.targets = torch.arange(count) % 3
        self.images = 0.5 * torch.randn(count, 1, 8, 8, generator=generator)
        for number, target in enumerate(self.targets.tolist()):
            self.images[number, 0, 2 * target : 2 * target + 3] += 1.0
        self.noisy = noisy

    def __len__(self):
        return len(self.targets)

    def batch(self, indices, *, seed=0, epoch=0):
        images = self.images[indices]
        if self.noisy:
            images = images + 0.01 * ((indices.float() * 7 + epoch * 3 + seed).sin()).view(-1, 1, 1, 1)
        return images, self.targets[indices]


class Net(nn.Module):
    def __init__(self, norm=True, dropout=0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.bn = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(8 * 4 * 4, 3)

    def forward(self, x):
        x = self.bn(self.conv1(x)).relu()
        return self.fc(self.dropout(self.conv2(x).relu().flatten(1)))


def conv_set(name, weight, structure):
    n, c, h, w = weight.shape
    shape, dims, count = {
        "filter": ((n, c * h * w), (0,), n),
        "shape": ((n, c * h * w), (1,), c * h * w),
        "channel": ((n, c, h * w), (1,), c),
    }[structure]
    sizes = torch.full((count,), weight.numel() // count)
    return GroupSet(structure, name, count, sizes, (GroupView(f"{name}.weight", shape, dims),))


@pytest.fixture
def data():
    train, validation, test = Blobs(96, noisy=True), Blobs(48, 1), Blobs(48, 2)
    return DataSource("blobs", train, validation, test, None, (1, 8, 8), ("a", "b", "c"))


@pytest.fixture
def make_net():
    def make(norm=True, dropout=0.0, seed=3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Net(norm, dropout)

    return make


@pytest.fixture
def net(make_net):
    return make_net()


@pytest.fixture
def trained(make_net, data):
    """A network that has learned its task, as the paper's order begins with."""
    model = make_net(norm=False)
    fit(model, None, data, TrainOptions(epochs=8, lr=0.05), batch_size=16)
    return model


@pytest.fixture
def sets():
    def make(model, *structures, layers=("conv1", "conv2")):
        return [
            conv_set(name, getattr(model, name).weight, structure)
            for structure in structures
            for name in layers
        ]

    return make


@pytest.fixture
def weights():
    def copy_of(model):
        return copy.deepcopy(model.state_dict())

    return copy_of
