from __future__ import annotations

from sslcli.cli.command import Common, step_command
from sslcli.pipeline.request import Request


@step_command("prune")
def command(request: Request, common: Common) -> object:
    """Remove the zero groups of MODEL, or choose them by --threshold, --share or --target.

    The smaller model is compared with the masked original on fresh inputs; if they differ, nothing is
    written and the exit code is 6.
    """
    from sslcli.pipeline.jobs import JOBS

    return JOBS["prune"](request, ())
