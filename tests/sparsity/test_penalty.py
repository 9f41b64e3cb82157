from __future__ import annotations

import math

import pytest
import torch

from sslcli.graph.groups import GroupSet, GroupView
from sslcli.sparsity.penalty import penalty


def test_penalty_by_hand():
    parameters = {"w": torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))}
    rows = GroupSet("filter", "w", 2, torch.tensor([2, 2]), (GroupView("w", (2, 2), (0,)),))
    columns = GroupSet("shape", "w", 2, torch.tensor([2, 2]), (GroupView("w", (2, 2), (1,)),))
    assert float(penalty(parameters, [rows, columns], [0.5, 2.0], size_weights=False)) == pytest.approx(16.5)
    weighted = float(penalty(parameters, [rows, columns], [0.5, 2.0]))
    assert weighted == pytest.approx(16.5 * math.sqrt(2))


def test_penalty_without_sets_is_zero():
    assert float(penalty({}, [], [])) == 0.0


def test_grouped_columns_are_formed_per_convolution_group(generator):
    weight = torch.nn.Parameter(torch.randn(6, 2, 3, 3, generator=generator, dtype=torch.float64))
    columns = GroupSet("shape", "w", 2 * 18, torch.full((36,), 3), (GroupView("w", (2, 3, 18), (0, 2)),))
    expected = weight.detach().view(2, 3, 18).norm(dim=1).sum()
    assert float(penalty({"w": weight}, [columns], [1.0], size_weights=False)) == pytest.approx(
        float(expected)
    )


def test_long_matrices_are_summed_in_blocks(generator, make_set):
    weight = torch.nn.Parameter(torch.randn(3000, 100, 1, 1, generator=generator))
    found = penalty({"w": weight}, [make_set("w", (3000, 100, 1, 1), "shape")], [1.0], size_weights=False)
    expected = weight.detach().double().view(3000, 100).norm(dim=0).sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
