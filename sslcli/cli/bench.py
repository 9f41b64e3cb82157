from __future__ import annotations

from sslcli.cli.command import Common, step_command
from sslcli.pipeline.request import Request


@step_command("bench", output="none", others=True, leave_out=("baseline",))
def command(request: Request, common: Common) -> object:
    """Time BASE against every OTHER, interleaved, whole and layer by layer.

    Models that are not ONNX are exported first, as they are.
    """
    from sslcli.pipeline.jobs import JOBS

    return JOBS["bench"](request, [common.terminal.notice])
