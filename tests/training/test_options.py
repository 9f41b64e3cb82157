from __future__ import annotations

import pytest

from sslcli.options.training import RegularizeOptions, TrainOptions
from sslcli.options.validation import OptionsError, parse


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"filter": 5e-3, "shape": 1e-3}, [("filter", 5e-3, "*"), ("shape", 1e-3, "*")]),
        ({"filter": {"strength": 5e-3, "match": "conv*"}}, [("filter", 5e-3, "conv*")]),
        ({"filter": {"conv1": 1.0, "conv2": 2.0}}, [("filter", 1.0, "conv1"), ("filter", 2.0, "conv2")]),
        (
            {"filter": [{"strength": 1}, {"strength": 2, "match": "a"}]},
            [("filter", 1, "*"), ("filter", 2, "a")],
        ),
        ([{"name": "depth", "strength": 0.5}], [("depth", 0.5, "*")]),
        (["filter=0.5@conv1", "shape=0.25"], [("filter", 0.5, "conv1"), ("shape", 0.25, "*")]),
    ],
)
def test_structures_are_read_in_every_form(given, expected):
    options = parse(RegularizeOptions, {"structures": given})
    assert [(s.name, s.strength, s.match) for s in options.structures] == expected


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"structures": {"filtre": 1.0}}, "filtre"),
        ({"structures": {"filter": -1.0}}, "at least 0"),
        ({"structures": {"filter": {"strength": 1, "mtach": "*"}}}, "mtach"),
        ({"structures": {"filter": float("nan")}}, "nan"),
        ({"target": {"macs": 1.5}}, "at most 1"),
        ({"target": {"flops": 0.5}}, "flops"),
        ({"strength_schedule": "staged", "strength_milestones": [1, 2]}, "one value more"),
        (
            {"strength_schedule": "staged", "strength_milestones": [2, 1], "strength_factors": [1, 2, 3]},
            "'strength_milestones' should increase",
        ),
        ({"schedule": "step", "milestones": [5, 3]}, "'milestones' should increase"),
        ({"temperature": 1e-30}, "at least 0.05"),
        ({"temperature": 1e30}, "at most 100"),
        ({"nesterov": True, "momentum": 0}, "needs the optimizer sgd"),
        ({"lr": 0}, "greater than 0"),
    ],
)
def test_wrong_values_are_refused(values, sentence):
    with pytest.raises(OptionsError, match=sentence):
        parse(RegularizeOptions, values)


def test_yaml_booleans_choose_mixed_precision():
    assert TrainOptions(amp=False).amp == "off"
    assert TrainOptions(amp=True).amp == "auto"


def test_regularize_keeps_the_last_epoch_where_train_keeps_the_best():
    assert (TrainOptions().keep, RegularizeOptions().keep) == ("best", "last")
