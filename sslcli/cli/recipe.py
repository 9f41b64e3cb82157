from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from sslcli.cli.command import Common, plain_command
from sslcli.cli.completion import FIELDS, MODEL
from sslcli.cli.flags import SET_HELP, Option, field_options, given, usage_error
from sslcli.cli.show import write_json, write_text
from sslcli.cli.terminal import Terminal
from sslcli.errors import SslcliError
from sslcli.options.common import ModelOptions
from sslcli.options.inspect import EvaluateOptions
from sslcli.options.names import DATA_SETS
from sslcli.options.validation import OptionsError, parse

_SET = Option(["--set", "overrides"], multiple=True, metavar="KEY=VALUE", help=SET_HELP)
_FILE = click.Argument(["recipe"], type=click.Path(path_type=Path))
_MODEL = {"model": ModelOptions}


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
    if loaded is not None:
        problems = _raised(lambda: check_globs(loaded))
    if loaded is None or problems:
        _show_but_last(problems, common.terminal)
        return RecipeText(str(recipe), "", list(problems), problems[-1])
    return RecipeText(str(recipe), f"{recipe} is a good recipe of {len(loaded.steps)} steps")


@plain_command("explain", output="none", arguments=[_FILE, _SET])
def explain(recipe: Path, overrides: tuple[str, ...], common: Common) -> object:
    """Say in words what RECIPE will do."""
    from sslcli.pipeline.results import RecipeText
    from sslcli.recipe import load_recipe
    from sslcli.recipe.explain import explain as in_words

    return RecipeText(str(recipe), in_words(load_recipe(recipe, overrides)))


@plain_command("schema", output="none", dry_run=False)
def schema(common: Common) -> None:
    """Print the JSON schema of recipes, for editors."""
    from sslcli.recipe.schema import json_schema

    text = json.dumps(json_schema(), indent=2) + "\n"
    for place in {"-", common.json or "-"}:
        write_text(text, place)


@plain_command(
    "init",
    output="optional",
    output_help="The recipe to write.  [default: stdout]",
    force_help="Replace a file that is there.",
    arguments=[
        click.Argument(["model"], shell_complete=MODEL),
        Option(
            ["--data"],
            required=True,
            envvar="SSLCLI_DATA",
            shell_complete=FIELDS["data"],
            help=f"Data set: {', '.join(DATA_SETS)}, imagefolder:DIR, module:factory or file.py:factory.",
        ),
        Option(
            ["--task"],
            envvar="SSLCLI_TASK",
            shell_complete=FIELDS["task"],
            help=EvaluateOptions.model_fields["task"].description,
        ),
        *field_options(_MODEL),
    ],
)
def init(model: str, data: str, task: str | None, common: Common, **options: object) -> None:
    """Write a commented recipe for MODEL and its data: to -o, or to stdout.

    The model is loaded and the data set looked at, so that a wrong name is found now; nothing is trained, and
    data sets that may have to be fetched are not read.
    """
    from sslcli.pipeline.beginning import look
    from sslcli.pipeline.results import RecipeText
    from sslcli.recipe.template import Start, template, write_template

    try:
        keys = parse(ModelOptions, given(_MODEL, options))
    except OptionsError as error:
        raise usage_error(error) from None
    found = look(model, data, keys, task)
    text = template(Start(model, data, keys, task, found.input_shape, found.mean, found.std))
    if common.output is not None and not common.dry_run:
        write_template(common.output, text, force=common.force)
        common.terminal.notice(f"wrote {common.output}; next: sslcli run {common.output}")
    elif common.json != "-":
        click.echo(text, nl=False)
    write_json(RecipeText(str(common.output or ""), text), common.json)


for _command in (init, validate, schema, explain):
    command.add_command(_command)


def _show_but_last(problems: Sequence[SslcliError], terminal: Terminal) -> None:
    """All problems are listed; the last is raised, and so shown like any error."""
    for problem in problems[:-1]:
        click.echo(f"Error: {problem}", err=True, color=terminal.color)


def _raised(check: Callable[[], object]) -> list[SslcliError]:
    """What ``check`` raises of ours."""
    try:
        check()
    except SslcliError as error:
        return [error]
    return []
