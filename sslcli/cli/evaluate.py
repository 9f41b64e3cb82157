from __future__ import annotations

from sslcli.cli.command import Common, step_command
from sslcli.pipeline.request import Request


@step_command("evaluate", output="none")
def command(request: Request, common: Common) -> object:
    """Measure accuracy and loss of MODEL (.pt2, state dict or .onnx) on a data set."""
    from sslcli.pipeline.jobs import JOBS

    return JOBS["evaluate"](request, ())
