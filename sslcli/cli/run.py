from __future__ import annotations

from pathlib import Path

import click

from sslcli.cli.command import Common, plain_command
from sslcli.cli.flags import Option
from sslcli.cli.progress import run_progress

_PARAMETERS: list[click.Parameter] = [
    click.Argument(["recipe"], type=click.Path(path_type=Path)),
    Option(
        ["--set", "overrides"],
        multiple=True,
        metavar="KEY=VALUE",
        help="Change a value of the recipe: seed=1, data.batch_size=32, steps.sparse.epochs=5; repeats.",
    ),
]


@plain_command("run", output="optional", arguments=_PARAMETERS)
def command(recipe: Path, overrides: tuple[str, ...], common: Common) -> object:
    """Run RECIPE: its steps in turn, each in its own folder under runs/NAME.

    A step whose inputs, options and code have not changed is not run again; a run that was stopped
    continues where it was. -o names another folder than runs/NAME; --force runs every step.
    """
    from sslcli.pipeline.chain import plan_run, run
    from sslcli.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    folder = common.output or Path("runs") / loaded.name
    if common.dry_run:
        return plan_run(loaded, folder, force=common.force)
    with run_progress(common.terminal) as observers:
        return run(loaded, folder, observers, force=common.force)
