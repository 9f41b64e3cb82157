from __future__ import annotations

from sslcli.cli.command import Common, step_command
from sslcli.cli.progress import progress
from sslcli.pipeline.request import Request


@step_command("regularize")
def command(request: Request, common: Common) -> object:
    """Fine-tune MODEL with group Lasso until whole groups are exactly zero.

    Either give strengths (--structure filter=0.005 --structure shape=0.005@conv2) or a target (--target
    macs=0.5), for which the strengths are found. `sslcli prune` then removes the zero groups.
    """
    from sslcli.pipeline.jobs import JOBS

    with progress(common.terminal) as observers:
        return JOBS["regularize"](request, observers)
