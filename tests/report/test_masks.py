import numpy as np
import torch
from torch import nn

from sslcli import checkpoint
from sslcli.report.masks import conv_masks, describe, spread


def test_a_pruned_weight_is_seen_where_it_was():
    live = np.array([[[True, False]], [[False, True]]])  # 2 filters, 1 channel, 2 taps
    plan = {"kept": {"c.weight": {"0": [1, 3], "1": [2]}}, "shapes": {"c.weight": [4, 3, 2]}}
    full = spread(live, "c.weight", plan)
    assert full.shape == (4, 3, 2)
    assert {tuple(place) for place in np.argwhere(full).tolist()} == {(1, 2, 0), (3, 2, 1)}


def test_an_axis_that_is_whole_is_absent_from_the_plan():
    live = np.ones((1, 3, 2), dtype=bool)
    plan = {"kept": {"c.weight": {"0": [2]}}, "shapes": {"c.weight": [4, 3, 2]}}
    assert spread(live, "c.weight", plan).any((1, 2)).tolist() == [False, False, True, False]


def test_groups_have_channels_of_their_own():
    # two groups of two filters; the first keeps channel 0, the second channels 1 and 2
    live = np.ones((4, 2, 1), dtype=bool)
    plan = {"kept": {"c.weight": {"1": [[0], [1, 2]]}}, "shapes": {"c.weight": [4, 3, 1]}}
    full = spread(live, "c.weight", plan)[..., 0]
    assert full.tolist() == [[True, False, False]] * 2 + [[False, True, True]] * 2


def test_a_weight_without_a_plan_is_as_it_is():
    live = np.array([[[True]]])
    assert spread(live, "c.weight", {}) is live


def test_zeros_of_a_saved_model_are_found(tmp_path):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 36, 2)).eval()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].weight[:, 0, 2, 1] = 0
    checkpoint.save(model, tmp_path / "m.pt2", example=(torch.zeros(2, 2, 8, 8),))
    [(layer, live)] = conv_masks(tmp_path / "m.pt2").items()
    assert layer == "0"
    expected = np.ones((3, 2, 3, 3), dtype=bool)
    expected[1] = False
    expected[:, 0, 2, 1] = False
    assert (live == expected).all()
    assert describe(live) == "2 of 3 filters and 17 of 18 columns are left"
