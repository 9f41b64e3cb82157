from typing import Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import Field

from sslcli.cli.flags import field_options, given
from sslcli.cli.structures import parse_shares, parse_structures, parse_targets
from sslcli.options.common import Options


class Some(Options):
    """One field of every kind."""

    batch_size: int = Field(64, description="How many.")
    rate: float | None = Field(None, description="How fast.")
    word: Literal["alpha", "beta"] = Field("alpha", description="Which.")
    flag: bool = Field(False, description="Whether.")
    maybe: bool | None = Field(None, description="Whether, if known.")
    sizes: tuple[int, ...] | None = Field(None, description="How large.")
    names: tuple[str, ...] = Field((), description="Who.")
    extra: dict[str, object] = Field(default_factory=dict, description="What else.")


def parsed(*arguments, **environment):
    found = {}

    def callback(**parameters):
        found.update(given({"step": Some}, parameters))

    command = click.Command("x", params=field_options({"step": Some}), callback=callback)
    result = CliRunner().invoke(command, arguments, env=environment)
    assert result.exit_code == 0, result.output
    return found


def test_what_is_not_given_is_not_passed_on():
    assert parsed() == {}


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["--batch-size", "3"], {"batch_size": 3}),
        (["-b", "3"], {"batch_size": 3}),
        (["--rate", "1e-3"], {"rate": 0.001}),
        (["--word", "beta"], {"word": "beta"}),
        (["--flag"], {"flag": True}),
        (["--no-flag"], {"flag": False}),
        (["--no-maybe"], {"maybe": False}),
        (["--sizes", "3,224,224"], {"sizes": ["3", "224", "224"]}),
        (["--names", "a,b", "--names", "c"], {"names": ["a", "b", "c"]}),
        (
            ["--extra", "n=5", "--extra", "s=a=b", "--extra", "l=[1, 2]"],
            {"extra": {"n": 5, "s": "a=b", "l": [1, 2]}},
        ),
    ],
)
def test_a_field_is_one_option(arguments, values):
    assert parsed(*arguments) == values
    Some.model_validate(values)


def test_the_environment_sets_options_too():
    assert parsed(SSLCLI_BATCH_SIZE="7", SSLCLI_FLAG="1") == {"batch_size": 7, "flag": True}


def test_the_help_has_description_and_default():
    command = click.Command("x", params=field_options({"step": Some}))
    text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "-b, --batch-size INTEGER How many. [default: 64]" in text
    assert "--word [alpha|beta] Which. [default: alpha]" in text
    assert "--flag / --no-flag Whether. [default: no]" in text
    assert "--maybe / --no-maybe Whether, if known." in text


def test_structures_keep_their_order_and_globs():
    assert parse_structures(["filter=5e-3", "shape=0.01@conv2", "filter=0@layer1.*"]) == [
        {"name": "filter", "strength": 0.005, "match": "*"},
        {"name": "shape", "strength": 0.01, "match": "conv2"},
        {"name": "filter", "strength": 0.0, "match": "layer1.*"},
    ]
    assert parse_structures(["filter", "shape@conv2"]) == [  # where a target finds the strengths
        {"name": "filter", "match": "*"},
        {"name": "shape", "match": "conv2"},
    ]


@pytest.mark.parametrize("text", ["@conv1", "=1", "filter=", "filter=x", "filter=1@", "filter@conv1=2"])
def test_structures_of_another_form_are_refused(text):
    with pytest.raises(click.UsageError):
        parse_structures([text])


def test_targets_combine_and_do_not_repeat():
    assert parse_targets(["macs=0.5", "params=0.3"]) == {"macs": 0.5, "params": 0.3}
    with pytest.raises(click.UsageError, match="given twice"):
        parse_targets(["macs=0.5", "macs=0.3"])


def test_the_structures_of_prune_are_names_alone():
    from sslcli.options.prune import PruneOptions

    found = {}

    def callback(**parameters):
        found.update(given({"step": PruneOptions}, parameters))

    command = click.Command("prune", params=field_options({"step": PruneOptions}), callback=callback)
    arguments = ["--structure", "filter,shape", "--structure", "head", "--keep", "conv1"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert found == {"structures": ["filter", "shape", "head"], "keep": ["conv1"]}
    assert PruneOptions.model_validate(found).structures == ("filter", "shape", "head")
    assert "STRENGTH" not in CliRunner().invoke(command, ["--help"]).output


def test_shares_are_entries_in_their_order():
    assert parse_shares(["filter=0.3", "filter=0.5@conv1"]) == [
        {"name": "filter", "fraction": 0.3, "match": "*"},
        {"name": "filter", "fraction": 0.5, "match": "conv1"},
    ]


@pytest.mark.parametrize(
    "text", ["filter", "=0.5", "filter=", "filter=half", "filter=0.5@", "filter@conv1=0.5"]
)
def test_shares_that_are_none_are_refused(text):
    with pytest.raises(click.UsageError, match="--share"):
        parse_shares([text])
