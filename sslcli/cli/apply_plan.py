from __future__ import annotations

from pathlib import Path

import click

from sslcli.cli.command import Common, note_sources, plain_command
from sslcli.cli.depfile import files_of_model
from sslcli.cli.flags import field_options, given, usage_error
from sslcli.options.common import ModelOptions
from sslcli.options.validation import OptionsError, parse

_GROUPS = {"model": ModelOptions}


@plain_command(
    "apply-plan",
    output="required",
    depfile=True,
    arguments=[
        click.Argument(["plan"], type=click.Path(path_type=Path)),
        *field_options(_GROUPS),
    ],
)
def command(plan: Path, common: Common, **options: object) -> object:
    """Make the small model as the user's own class: PLAN applied to a fresh --arch.

    PLAN is the JSON of a plan, which leaves the weights fresh, or a pruned .pt2, whose weights are loaded.
    OUT is .safetensors or .pt2. The plan's probe input is run, and it fails if the class computes something
    else.
    """
    from sslcli.pipeline.model_jobs import apply_plan

    try:
        model = parse(ModelOptions, given(_GROUPS, options))
    except OptionsError as error:
        raise usage_error(error) from None
    assert common.output is not None  # the flag is required
    result = apply_plan(plan, model, common.output, force=common.force, dry_run=common.dry_run)
    if not common.dry_run:
        note_sources(common, [plan, *files_of_model(model)])
    return result
