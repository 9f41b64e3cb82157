from __future__ import annotations

import pytest
import torch

from sslcli.errors import InputError
from sslcli.graph.groups import GroupSet, GroupView
from sslcli.sparsity.bound import bind, group_norms, summed_norms


def one(view, count):
    return GroupSet("filter", "conv", count, torch.ones(count), (view,))


@pytest.mark.parametrize(
    ("shape", "dims", "expression"),
    [
        ((2, 3, 4), (0,), lambda w: w.flatten(1).norm(dim=1)),
        ((2, 3, 4), (1,), lambda w: w.transpose(0, 1).flatten(1).norm(dim=1)),
        ((2, 3, 4), (2,), lambda w: w.flatten(0, 1).norm(dim=0)),
        ((2, 3, 4), (0, 2), lambda w: w.norm(dim=1).flatten()),
        ((2, 3, 4), (1, 2), lambda w: w.norm(dim=0).flatten()),
        ((2, 3, 4), (0, 1, 2), lambda w: w.abs().flatten()),
        ((2, 3, 4), (), lambda w: w.norm().view(1)),
        ((1, 24), (1,), lambda w: w.abs().flatten()),
        ((24, 1), (1,), lambda w: w.norm().view(1)),
        ((2, 3, 2, 2), (1, 3), lambda w: w.permute(1, 3, 0, 2).flatten(2).norm(dim=2).flatten()),
    ],
)
def test_norms_of_every_layout(shape, dims, expression, generator):
    weight = torch.randn(24, generator=generator, dtype=torch.float64)
    expected = expression(weight.view(shape))
    bound = bind({"w": weight}, one(GroupView("w", shape, dims), len(expected)))
    torch.testing.assert_close(group_norms(bound), expected)


def test_norms_of_several_views_are_added_up():
    """Group 0 is (3, 4) of a and 2 of b, group 1 is (0, 1) and (2, 2, 1) of b, group 2 is of a alone."""
    views = (
        GroupView("a", (3, 2), (0,)),
        GroupView("b", (5,), (0,), torch.tensor([1, 0, 1, -1, 1])),
    )
    parameters = {
        "a": torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]]),
        "b": torch.tensor([2.0, 2.0, 2.0, 9.0, -1.0]),
    }
    bound = bind(parameters, GroupSet("filter", "conv", 3, torch.tensor([3, 5, 2]), views))
    assert summed_norms(bound).tolist() == [5 + 2, 1 + 3, 10]
    torch.testing.assert_close(group_norms(bound).square(), torch.tensor([25.0 + 4, 1 + 9, 100]))


def test_half_precision_is_summed_in_single():
    weight = torch.full((4, 1024), 3.0, dtype=torch.float16)
    norms = group_norms(bind({"w": weight}, one(GroupView("w", (4, 1024), (0,)), 4)))
    assert norms.tolist() == [96.0] * 4


def test_a_missing_parameter_is_named():
    with pytest.raises(InputError, match="filter groups of conv need the parameter w"):
        bind({}, one(GroupView("w", (2, 2), (0,)), 2))


def test_a_parameter_of_another_size_is_named():
    with pytest.raises(InputError, match=r"parameter w of shape \(3, 2\)"):
        bind({"w": torch.zeros(3, 2)}, one(GroupView("w", (2, 2), (0,)), 2))


def test_a_parameter_that_would_be_copied_is_refused():
    weight = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    with pytest.raises(InputError, match="not stored contiguously"):
        bind({"w": weight}, one(GroupView("w", (2, 48), (0,)), 2))
