from __future__ import annotations

import torch

from sslcli.graph.groups import GroupSet, GroupView
from sslcli.sparsity.zeros import Freeze, count_zeros, zero_groups, zero_masks

SHAPE = (4, 3, 2, 2)


def planted(generator):
    weight = torch.nn.Parameter(torch.randn(SHAPE, generator=generator))
    with torch.no_grad():
        weight[1] = 0
        weight[:, 2, 0, 1] = 0
        weight[0, 0, 0, 0] = 0
    return weight


def test_zero_groups_are_those_whose_every_element_is_zero(generator, make_set):
    parameters = {"w": planted(generator)}
    sets = [make_set("w", SHAPE, s) for s in ("filter", "shape", "filter2d", "depth")]
    rows, columns, kernels, whole = zero_groups(parameters, sets)
    assert rows.nonzero().flatten().tolist() == [1]
    assert columns.nonzero().flatten().tolist() == [2 * 4 + 1]
    assert kernels.view(4, 3).nonzero().tolist() == [[1, 0], [1, 1], [1, 2]]
    assert whole.tolist() == [False]
    assert count_zeros(parameters, sets) == {
        "filter": (1, 4), "shape": (1, 12), "filter2d": (3, 12), "depth": (0, 1)
    }  # fmt: skip


def test_tiny_elements_keep_a_group_alive(make_set):
    weight = torch.nn.Parameter(torch.zeros(SHAPE))
    with torch.no_grad():
        weight[2, 1, 1, 1] = 1e-40
    (rows,) = zero_groups({"w": weight}, [make_set("w", SHAPE, "filter")])
    assert rows.tolist() == [True, True, False, True]


def test_coupled_group_is_zero_only_where_all_its_parts_are():
    parameters = {
        "a": torch.nn.Parameter(torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])),
        "b": torch.nn.Parameter(torch.tensor([5.0, 0.0, 1.0, 0.0])),
    }
    views = (GroupView("a", (3, 2), (0,)), GroupView("b", (4,), (0,), torch.tensor([-1, 0, 2, 1])))
    coupled = GroupSet("filter", "a+b", 3, torch.tensor([3, 3, 3]), views)
    assert zero_groups(parameters, [coupled])[0].tolist() == [True, False, False]
    masks = zero_masks(parameters, [coupled])
    assert masks["a"].tolist() == [[True, True], [False, False], [False, False]]
    assert masks["b"].tolist() == [False, True, False, False]


def test_masks_cover_zero_groups_and_no_other_zero(generator, make_set):
    parameters = {"w": planted(generator)}
    masks = zero_masks(parameters, [make_set("w", SHAPE, "filter"), make_set("w", SHAPE, "shape")])
    expected = torch.zeros(SHAPE, dtype=torch.bool)
    expected[1] = True
    expected[:, 2, 0, 1] = True
    assert torch.equal(masks["w"], expected)
    assert zero_masks({"w": torch.nn.Parameter(torch.ones(SHAPE))}, [make_set("w", SHAPE, "filter")]) == {}


def test_chosen_groups_replace_those_found(generator, make_set):
    chosen = [torch.tensor([False, False, True, False])]
    masks = zero_masks({"w": planted(generator)}, [make_set("w", SHAPE, "filter")], chosen)
    assert masks["w"].flatten(1).all(1).tolist() == [False, False, True, False]
    assert int(masks["w"].sum()) == 12


def test_frozen_elements_stay_zero_through_momentum(generator, make_set):
    weight = planted(generator)
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    weight.grad = torch.ones(SHAPE)
    optimizer.step()
    with torch.no_grad():
        weight[1] = 0
    freeze = Freeze({"w": weight}, zero_masks({"w": weight}, [make_set("w", SHAPE, "filter")]))
    freeze.momentum(optimizer)
    for _ in range(3):
        weight.grad = torch.ones(SHAPE)
        freeze.gradients()
        optimizer.step()
        assert not weight[1].any()  # before the weights are cleared
        freeze.weights()
    assert weight[0].all()
