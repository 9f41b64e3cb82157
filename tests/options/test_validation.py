from typing import Literal

import pytest
from pydantic import Field

from sslcli.options.common import DataOptions, ModelOptions, Options
from sslcli.options.steps import STEPS, groups, settings
from sslcli.options.training import RegularizeOptions
from sslcli.options.validation import OptionsError, nearest, parse


class Some(Options):
    """For the tests."""

    count: int = Field(3, ge=1)
    rate: float | None = None
    word: Literal["alpha", "beta"] = "alpha"
    flag: bool = False


@pytest.mark.parametrize(
    ("values", "what", "hint"),
    [
        ({"count": "x"}, "'count' should be a whole number, not 'x'", None),
        ({"count": 1.5}, "'count' should be a whole number, not 1.5", None),
        ({"count": True}, "'count' should be a number, not true", None),
        ({"count": 0}, "'count' should be at least 1, not 0", None),
        ({"rate": [1]}, "'rate' should be a number, not [1]", None),
        ({"rate": False}, "'rate' should be a number, not false", None),
        ({"word": "alpa"}, "'word' should be 'alpha' or 'beta', not 'alpa'", "did you mean 'alpha'?"),
        ({"word": 7}, "'word' should be 'alpha' or 'beta', not 7", "choose one of these"),
        ({"flag": 5}, "'flag' should be true or false, not 5", None),
        ({"cuont": 5}, "unknown key 'cuont'", "did you mean 'count'?"),
        ({"zzz": 5}, "unknown key 'zzz'", "known keys are count, flag, rate, word"),
    ],
)
def test_a_problem_is_said_in_words(values, what, hint):
    with pytest.raises(OptionsError) as caught:
        parse(Some, values)
    assert [(problem.what, problem.hint) for problem in caught.value.problems] == [(what, hint)]


def test_all_problems_are_found_at_once():
    with pytest.raises(OptionsError) as caught:
        parse(Some, {"count": 0, "flag": 5, "nope": 1})
    assert len(caught.value.problems) == 3


def test_long_values_are_cut():
    with pytest.raises(OptionsError) as caught:
        parse(Some, {"count": "x" * 1000})
    assert len(caught.value.problems[0].what) < 120


def test_nearest_has_no_answer_to_everything():
    assert nearest("qqq", ["count", "rate"]) is None


@pytest.mark.parametrize("step", STEPS)
def test_every_step_has_options_that_are_described_and_have_a_default(step):
    for kind in groups(step).values():
        for name, field in kind.model_fields.items():
            assert field.description, f"{kind.__name__}.{name}"
            assert not field.is_required()


def test_settings_are_sorted_into_their_groups():
    found = settings("train", {"epochs": 3, "batch_size": 8, "arch": "lenet", "seed": 5})
    assert (found.step.epochs, found.data.batch_size, found.model.arch, found.run.seed) == (3, 8, "lenet", 5)


def test_defaults_hold_where_nothing_is_given():
    found = settings("train", {"seed": 5}, {"run": {"seed": 1, "threads": 2}, "data": {"data": "mnist"}})
    assert (found.run.seed, found.run.threads, found.data.data) == (5, 2, "mnist")


def test_a_name_of_two_groups_sets_both():
    found = settings("bench", {"threads": 2})
    assert (found.step.threads, found.run.threads) == (2, 2)


def test_options_are_not_changed_after_parsing():
    options = ModelOptions.model_validate({})
    with pytest.raises(ValueError, match="frozen"):
        options.arch = "x"


def test_numbers_may_be_written_as_text():
    options = DataOptions.model_validate({"batch_size": "8", "mean": ["0.5", "1e-1"]})
    assert (options.batch_size, options.mean) == (8, (0.5, 0.1))


@pytest.mark.parametrize(
    "given",
    [
        ["shape", "filter=2@conv1"],
        [{"name": "shape"}, {"name": "filter", "strength": 2, "match": "conv1"}],
        {"shape": None, "filter": {"conv1": 2}},
        {"shape": [{"match": "*"}], "filter": {"strength": 2, "match": "conv1"}},
    ],
)
def test_a_strength_may_be_left_out_where_a_target_finds_it(given):
    options = parse(RegularizeOptions, {"structures": given, "target": {"macs": 0.5}})
    assert [(entry.name, entry.strength, entry.match) for entry in options.structures] == [
        ("shape", 1.0, "*"),
        ("filter", 2.0, "conv1"),
    ]
    with pytest.raises(OptionsError, match="structure shape has no strength, which only a target finds"):
        parse(RegularizeOptions, {"structures": given})
