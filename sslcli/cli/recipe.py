from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from sslcli.cli.command import Common, plain_command
from sslcli.cli.flags import Option
from sslcli.cli.terminal import Terminal
from sslcli.errors import SslcliError

_SET = Option(
    ["--set", "overrides"], multiple=True, metavar="KEY=VALUE", help="As for run; repeats.  [default: none]"
)
_FILE = click.Argument(["recipe"], type=click.Path(path_type=Path))


@click.group("recipe", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Write, check and explain recipes."""


@plain_command("validate", output="none", arguments=[_FILE, _SET])
def validate(recipe: Path, overrides: tuple[str, ...], common: Common) -> object:
    """Check RECIPE without running it; every problem is a line with its place, and the exit code is 3."""
    from sslcli.pipeline.globs import check_globs
    from sslcli.pipeline.results import RecipeText
    from sslcli.recipe import recipe_problems

    loaded, problems = recipe_problems(recipe, overrides)
    if loaded is None:
        _show_but_last(problems, common.terminal)
        raise problems[-1]
    check_globs(loaded)
    return RecipeText(str(recipe), f"{recipe} is a good recipe of {len(loaded.steps)} steps")


@plain_command("explain", output="none", arguments=[_FILE, _SET])
def explain(recipe: Path, overrides: tuple[str, ...], common: Common) -> object:
    """Say in words what RECIPE will do."""
    from sslcli.pipeline.results import RecipeText
    from sslcli.recipe import load_recipe
    from sslcli.recipe.explain import explain as in_words

    return RecipeText(str(recipe), in_words(load_recipe(recipe, overrides)))


@click.command("schema", context_settings={"help_option_names": ["-h", "--help"]})
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from sslcli.recipe.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@plain_command(
    "init",
    output="optional",
    output_help="The recipe to write.  [default: stdout]",
    force_help="Replace a file that is there.",
    arguments=[
        click.Argument(["model"]),
        Option(["--data"], required=True, envvar="SSLCLI_DATA", help="Data set, as for `sslcli train`."),
        Option(["--arch"], envvar="SSLCLI_ARCH", help="Architecture of a state dict.  [default: none]"),
    ],
)
def init(model: str, data: str, arch: str | None, common: Common) -> None:
    """Write a commented recipe for MODEL and its data: to -o, or to stdout."""
    from sslcli.recipe.template import template, write_template

    text = template(model, data, arch)
    if common.output is None or common.dry_run:
        click.echo(text, nl=False)
        return
    write_template(common.output, text, force=common.force)
    common.terminal.notice(f"wrote {common.output}; next: sslcli run {common.output}")


for _command in (init, validate, schema, explain):
    command.add_command(_command)


def _show_but_last(problems: Sequence[SslcliError], terminal: Terminal) -> None:
    """All problems are listed; the last is raised, and so shown like any error."""
    for problem in problems[:-1]:
        click.echo(f"Error: {problem}", err=True, color=terminal.color)
