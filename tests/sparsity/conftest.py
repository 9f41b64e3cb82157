from __future__ import annotations

import pytest
import torch

from sslcli.graph.groups import GroupSet, GroupView


def conv_sets(name, shape, structure):
    """The groups of one plain convolution's weight, made by hand."""
    n, c, *kernel = shape
    k = 1
    for size in kernel:
        k *= size
    view_shape, dims, count = {
        "filter": ((n, c * k), (0,), n),
        "channel": ((n, c, k), (1,), c),
        "shape": ((n, c * k), (1,), c * k),
        "filter2d": ((n, c, k), (0, 1), n * c),
        "depth": ((n, c * k), (), 1),
    }[structure]
    sizes = torch.full((count,), n * c * k // count)
    return GroupSet(structure, name, count, sizes, (GroupView(name, view_shape, dims),))


@pytest.fixture
def make_set():
    return conv_sets


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)
