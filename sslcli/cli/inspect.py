from __future__ import annotations

from sslcli.cli.command import Common, step_command
from sslcli.pipeline.request import Request


@step_command("inspect", output="none")
def command(request: Request, common: Common) -> object:
    """Show the layers of MODEL, their groups, sparsity and MACs, and why a layer is left whole."""
    from sslcli.pipeline.jobs import JOBS

    return JOBS["inspect"](request, ())
