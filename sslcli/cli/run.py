from __future__ import annotations

from pathlib import Path

import click

from sslcli.cli.command import Common, note_sources, plain_command
from sslcli.cli.flags import SET_HELP, Option
from sslcli.cli.progress import run_progress
from sslcli.files import require_apart

_PARAMETERS: list[click.Parameter] = [
    click.Argument(["recipe"], type=click.Path(path_type=Path)),
    Option(
        ["--set", "overrides"],
        multiple=True,
        metavar="KEY=VALUE",
        help=SET_HELP,
    ),
    Option(
        ["--seed"], type=int, envvar="SSLCLI_SEED", help="Short for --set seed=N.  [default: the recipe's]"
    ),
    Option(
        ["-b", "--batch-size"],
        type=int,
        envvar="SSLCLI_BATCH_SIZE",
        help="Samples per step; short for --set data.batch_size=N.  [default: the recipe's]",
    ),
    Option(
        ["--device"],
        envvar="SSLCLI_DEVICE",
        help="Device of the steps that name none: cpu, cuda, cuda:N or auto (CUDA where there is one).  "
        "[default: auto]",
    ),
    Option(
        ["--threads"],
        type=int,
        envvar="SSLCLI_THREADS",
        help="Threads of the steps that name no number.  [default: OMP_NUM_THREADS, else one a core]",
    ),
]


@plain_command(
    "run",
    output="optional",
    arguments=_PARAMETERS,
    output_help="Folder of the run's outputs, one folder a step in it.  [default: runs/NAME]",
    force_help="Run every step, also those that have not changed.",
    depfile=True,
)
def command(
    recipe: Path,
    overrides: tuple[str, ...],
    seed: int | None,
    batch_size: int | None,
    device: str | None,
    threads: int | None,
    common: Common,
) -> object:
    """Run RECIPE: its steps in turn, each in its own folder under runs/NAME.

    A step whose inputs, options and code have not changed is not run again; a run that was stopped
    continues where it was. NAME is the recipe's file name without its ending.
    """
    from sslcli.cli.depfile import files_of_recipe
    from sslcli.pipeline.chain import plan_run, run, written
    from sslcli.recipe import load_recipe

    shorthands = {"seed": seed, "data.batch_size": batch_size}
    settings = [f"{key}={value}" for key, value in shorthands.items() if value is not None]
    machine = {"device": device, "threads": threads}
    given = {name: value for name, value in machine.items() if value is not None}
    loaded = load_recipe(recipe, [*overrides, *settings], given)
    folder = common.output or Path("runs") / loaded.name
    require_apart([*written(loaded, folder), *common.texts()])
    if common.dry_run:
        return plan_run(loaded, folder, force=common.force)
    with run_progress(common.terminal) as observers:
        result = run(loaded, folder, observers, force=common.force)
    note_sources(common, files_of_recipe(loaded), target=folder / "run.json")
    return result
