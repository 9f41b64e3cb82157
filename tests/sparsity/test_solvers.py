from __future__ import annotations

import itertools

import pytest
import torch

from sslcli.graph.groups import GroupSet, GroupView
from sslcli.sparsity.penalty import WeightedSet
from sslcli.sparsity.solvers import Prox, Subgradient, prox_, subgradient_

SHAPE = (6, 4, 3, 3)
STRUCTURES = ("filter", "channel", "shape", "filter2d", "depth")


def weights(generator, shape=SHAPE, dtype=torch.float64):
    return torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype))


def as_groups(tensor, group_set):
    """Rows of the result are the groups of a plain, single-view set."""
    view = group_set.views[0]
    shaped = tensor.detach().reshape(view.shape)
    rest = [axis for axis in range(len(view.shape)) if axis not in view.dims]
    return shaped.permute(*view.dims, *rest).reshape(group_set.count, -1)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("size_weights", [True, False])
def test_prox_meets_the_optimality_conditions(structure, size_weights, generator, make_set):
    """x = prox(v) iff v_g - x_g = t w x_g/||x_g|| on live groups and ||v_g|| <= t w on dead ones."""
    parameter = weights(generator)
    before = parameter.detach().clone()
    group_set = make_set("w", SHAPE, structure)
    norms = as_groups(before, group_set).norm(dim=1)
    scale = group_set.sizes.double().sqrt() if size_weights else torch.ones(group_set.count).double()
    strength = 1.001 * float((norms / scale).median()) / 0.25
    prox_({"w": parameter}, [WeightedSet(group_set, strength, size_weights)], 0.25)
    v, x = as_groups(before, group_set), as_groups(parameter, group_set)
    limit = 0.25 * strength * scale
    dead = x.eq(0).all(1)
    assert (v[dead].norm(dim=1) <= limit[dead]).all()
    assert dead.any()
    assert structure == "depth" or not dead.all()
    unit = x[~dead] / x[~dead].norm(dim=1, keepdim=True)
    torch.testing.assert_close(v[~dead] - x[~dead], limit[~dead, None] * unit)


def test_group_of_one_element_is_soft_thresholding(generator):
    parameter = weights(generator, (5, 7))
    before = parameter.detach().clone()
    single = GroupSet("filter2d", "w", 35, torch.ones(35), (GroupView("w", (5, 7), (0, 1)),))
    prox_({"w": parameter}, [WeightedSet(single, 0.6)], 0.5)
    torch.testing.assert_close(parameter.detach(), before.sign() * (before.abs() - 0.3).clamp(min=0))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_critical_strength_is_where_the_last_group_dies(structure, generator, make_set):
    group_set = make_set("w", SHAPE, structure)
    before = weights(generator)
    critical = float((as_groups(before, group_set).norm(dim=1) / group_set.sizes.double().sqrt()).max())
    for factor, alive in ((1 + 1e-9, False), (1 - 1e-9, True)):
        parameter = torch.nn.Parameter(before.detach().clone())
        prox_({"w": parameter}, [WeightedSet(group_set, critical * factor)], 1.0)
        assert bool(parameter.any()) is alive


def test_zeros_are_positive_zeros(generator, make_set):
    parameter = weights(generator, dtype=torch.float32)
    assert (parameter < 0).any()
    prox_({"w": parameter}, [WeightedSet(make_set("w", SHAPE, "filter"), 1e6)], 1.0)
    assert torch.equal(parameter.detach().view(torch.int32), torch.zeros(SHAPE, dtype=torch.int32))


def test_zero_groups_stay_zero_and_make_no_nan(generator, make_set):
    parameter = weights(generator)
    with torch.no_grad():
        parameter[2] = 0
    prox_({"w": parameter}, [WeightedSet(make_set("w", SHAPE, s), 1e-3) for s in STRUCTURES], 0.1)
    assert torch.isfinite(parameter).all()
    assert not parameter[2].any()
    assert parameter[1].all()


@pytest.mark.parametrize(("strength", "step_size"), [(0.0, 1.0), (1.0, 0.0)])
def test_nothing_changes_at_strength_or_step_zero(strength, step_size, generator, make_set):
    parameter = weights(generator, dtype=torch.float32)
    before = parameter.detach().clone()
    prox_({"w": parameter}, [WeightedSet(make_set("w", SHAPE, s), strength) for s in STRUCTURES], step_size)
    assert torch.equal(parameter, before)


def nested_objective(x, v, sets, weights_):
    value = 0.5 * (x - v).square().sum()
    for group_set, weight in zip(sets, weights_, strict=True):
        view = group_set.views[0]
        shaped = x.reshape(view.shape)
        rest = [axis for axis in range(len(view.shape)) if axis not in view.dims]
        groups = shaped.permute(*view.dims, *rest).reshape(group_set.count, -1)
        value = value + weight * groups.norm(dim=1).sum()
    return value


@pytest.mark.parametrize(
    "nest", [("shape", "channel"), ("filter2d", "filter"), ("filter2d", "channel", "depth")]
)
def test_nested_structures_have_an_exact_prox(nest, generator, make_set):
    """Against coordinate-free brute force: no perturbation of the result lowers the objective."""
    shape = (3, 2, 2, 1)
    strengths = [0.35, 0.3, 0.4][: len(nest)]
    sets = [make_set("w", shape, structure) for structure in nest]
    parameter = weights(generator, shape)
    with torch.no_grad():
        parameter[:, 0] *= 0.1
    v = parameter.detach().clone()
    listed = list(zip(sets, strengths, strict=True))
    prox_({"w": parameter}, [WeightedSet(s, t, size_weights=False) for s, t in reversed(listed)], 1.0)
    found = parameter.detach()
    assert found.eq(0).any()
    torch.testing.assert_close(found, dykstra(v, sets, strengths), atol=1e-6, rtol=1e-6)
    best = nested_objective(found, v, sets, strengths)
    for scale in (1e-1, 1e-3):
        noise = scale * torch.randn(400, *shape, generator=generator, dtype=torch.float64)
        assert all(nested_objective(found + n, v, sets, strengths) >= best for n in noise)


def dykstra(v, sets, strengths, rounds=20000):
    """The prox of a sum of group norms by Dykstra's alternating method, valid for any overlap."""
    x = v.clone()
    corrections = [torch.zeros_like(v) for _ in sets]
    for _ in range(rounds):
        start = x
        for number, (group_set, strength) in enumerate(zip(sets, strengths, strict=True)):
            y = x + corrections[number]
            view = group_set.views[0]
            rest = [axis for axis in range(len(view.shape)) if axis not in view.dims]
            shaped = y.reshape(view.shape)
            norms = shaped.square().sum(rest, keepdim=True).sqrt()
            x = (shaped * (1 - strength / norms.clamp(min=1e-300)).clamp(min=0)).reshape(v.shape)
            corrections[number] = y - x
        if (x - start).abs().max() < 1e-13:
            break
    return x


def test_order_of_the_list_does_not_matter(generator, make_set):
    before = weights(generator)
    results = []
    for order in itertools.permutations(["shape", "channel", "filter"]):
        parameter = torch.nn.Parameter(before.detach().clone())
        prox_({"w": parameter}, [WeightedSet(make_set("w", SHAPE, s), 0.05) for s in order], 1.0)
        results.append(parameter.detach())
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_set_listed_twice_adds_its_strengths(generator, make_set):
    group_set = make_set("w", SHAPE, "filter")
    twice = weights(generator)
    once = torch.nn.Parameter(twice.detach().clone())
    prox_({"w": twice}, [WeightedSet(group_set, 0.1), WeightedSet(group_set, 0.2)], 1.0)
    prox_({"w": once}, [WeightedSet(group_set, 0.3)], 1.0)
    torch.testing.assert_close(twice, once)


def coupled_set():
    """Two producers of three units, the second padded: its row 0 belongs to no group, rows are permuted."""
    return GroupSet(
        "filter",
        "a+b",
        3,
        torch.tensor([4 + 2, 4 + 2, 4 + 2]),
        (GroupView("a", (3, 4), (0,)), GroupView("b", (4, 2), (0,), torch.tensor([-1, 2, 0, 1]))),
    )


def test_coupled_groups_share_one_norm(generator):
    a, b = weights(generator, (3, 4)), weights(generator, (4, 2))
    old_a, old_b = a.detach().clone(), b.detach().clone()
    prox_({"a": a, "b": b}, [WeightedSet(coupled_set(), 0.3)], 0.5)
    for group, row in ((0, 2), (1, 3), (2, 1)):
        norm = (old_a[group].square().sum() + old_b[row].square().sum()).sqrt()
        factor = max(0.0, 1 - 0.3 * 0.5 * 6**0.5 / float(norm))
        torch.testing.assert_close(a[group].detach(), old_a[group] * factor)
        torch.testing.assert_close(b[row].detach(), old_b[row] * factor)
    assert torch.equal(b[0], old_b[0])


def test_float32_agrees_with_float64(generator, make_set):
    exact = weights(generator, (40, 30, 3, 3))
    single = torch.nn.Parameter(exact.detach().float())
    for parameter in (exact, single):
        sets = [make_set("w", (40, 30, 3, 3), s) for s in STRUCTURES]
        prox_({"w": parameter}, [WeightedSet(s, 0.01) for s in sets], 0.5)
    torch.testing.assert_close(single.double(), exact, atol=1e-6, rtol=1e-5)


def test_subgradient_by_hand():
    parameter = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    parameter.grad = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    rows = GroupSet("filter", "w", 2, torch.tensor([2, 2]), (GroupView("w", (2, 2), (0,)),))
    columns = GroupSet("shape", "w", 2, torch.tensor([2, 2]), (GroupView("w", (2, 2), (1,)),))
    subgradient_({"w": parameter}, [WeightedSet(rows, 0.5, False), WeightedSet(columns, 0.1, False)])
    # rows: 0.5 * (3, 4)/5; columns: 0.1 * 3/3 and 0.1 * 4/4; nothing at zero elements
    torch.testing.assert_close(
        parameter.grad, torch.tensor([[1.0 + 0.3 + 0.1, 1.0 + 0.4 + 0.1], [1.0, -1.0]])
    )


def test_subgradient_is_the_gradient_of_the_penalty(generator, make_set):
    parameter = weights(generator)
    sets = [make_set("w", SHAPE, s) for s in STRUCTURES]
    strengths = [0.1, 0.2, 0.3, 0.4, 0.5]
    subgradient_({"w": parameter}, [WeightedSet(s, t, False) for s, t in zip(sets, strengths, strict=True)])
    found = parameter.grad.clone()
    parameter.grad = None
    objective = nested_objective(parameter, parameter.detach(), sets, strengths)
    objective.backward()
    torch.testing.assert_close(found, parameter.grad)


def test_threshold_zeroes_elements_below_it(make_set):
    parameter = torch.nn.Parameter(torch.tensor([[1e-4, -1e-4, 9.9e-5, -9.9e-5, 0.3, 0.0]]).view(1, 6, 1, 1))
    solver = Subgradient({"w": parameter}, [WeightedSet(make_set("w", (1, 6, 1, 1), "shape"), 1.0)])
    solver.threshold(1e-4)
    assert parameter.flatten().tolist() == pytest.approx([1e-4, -1e-4, 0, 0, 0.3, 0])
    assert parameter.flatten()[2] == 0


def test_prox_object_follows_the_parameter(generator, make_set):
    parameter = weights(generator)
    solver = Prox({"w": parameter}, [WeightedSet(make_set("w", SHAPE, "filter"), 0.01)])
    with torch.no_grad():
        parameter.mul_(2)
    twin = torch.nn.Parameter(parameter.detach().clone())
    solver.step(1.0)
    prox_({"w": twin}, [WeightedSet(make_set("w", SHAPE, "filter"), 0.01)], 1.0)
    assert torch.equal(parameter, twin)
