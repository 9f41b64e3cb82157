from __future__ import annotations

from sslcli.cli.command import Common, step_command
from sslcli.cli.progress import progress
from sslcli.pipeline.request import Request


@step_command("train")
def command(request: Request, common: Common) -> object:
    """Train or fine-tune MODEL without a penalty.

    The baseline, the control with the same extra training, or the last polish after pruning: groups that
    are zero in the input stay zero (--freeze-zeros).
    """
    from sslcli.pipeline.jobs import JOBS

    with progress(common.terminal) as observers:
        return JOBS["train"](request, observers)
