from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SHAPES = {
    "conv1": (96, 3, 11, 11),
    "conv2": (256, 48, 5, 5),
    "conv3": (384, 256, 3, 3),
    "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3),
}


@pytest.fixture(scope="module")
def table():
    path = Path(__file__).parents[2] / "benchmarks" / "alexnet_table.py"
    spec = importlib.util.spec_from_file_location("alexnet_table", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("placement", ["random", "clustered"])
@pytest.mark.parametrize("layer", SHAPES)
def test_patterns_have_the_papers_live_rows_and_columns(table, layer, placement):
    shape = SHAPES[layer]
    live = table.live_groups(layer, shape, 2)
    mask = table.zero_pattern(shape, live, placement, np.random.default_rng(0))
    groups = mask.reshape(len(live), shape[0] // len(live), -1)
    found = [(int(part.any(1).sum()), int(part.any(0).sum())) for part in groups]
    assert found == live
    assert all(part.sum() == rows * columns for part, (rows, columns) in zip(groups, live, strict=True))


def test_column_sparsity_is_the_papers(table):
    percent = {2: (0, 63.2, 76.9, 84.7, 80.7), 5: (0, 20.9, 39.7, 39.7, 24.6)}
    for pattern, expected in percent.items():
        for (layer, shape), share in zip(SHAPES.items(), expected, strict=True):
            columns = [columns for _, columns in table.live_groups(layer, shape, pattern)]
            whole = len(columns) * int(np.prod(shape[1:]))
            assert 100 * (1 - sum(columns) / whole) == pytest.approx(share, abs=0.15)


def test_clustered_columns_keep_centres_and_whole_channels(table):
    mask = table.zero_pattern((8, 256, 3, 3), [(8, 532)], "clustered", np.random.default_rng(0))
    taps = mask.any(0).reshape(256, 9)
    assert taps[:, 4].sum() > 2 * taps[:, 0].sum()
    assert (~taps.any(1)).sum() > 256 * 0.3
    spread = table.zero_pattern((8, 256, 3, 3), [(8, 532)], "random", np.random.default_rng(0))
    assert (~spread.any(0).reshape(256, 9).any(1)).sum() < 256 * 0.2
