from __future__ import annotations

from sslcli.cli.command import Common, step_command
from sslcli.pipeline.request import Request


@step_command("export")
def command(request: Request, common: Common) -> object:
    """Write MODEL as ONNX, lowered for the machine that will serve it; .pt2 or .safetensors by the suffix.

    A lowering is used only where it was measured to win, and every one is checked numerically.
    """
    from sslcli.pipeline.jobs import JOBS

    return JOBS["export"](request, ())
