from __future__ import annotations

from typing import Any

from sslcli.cli.command import Common, plain_command
from sslcli.cli.flags import Option


@plain_command(
    "doctor",
    output="none",
    dry_run=False,
    arguments=[
        Option(
            ["--data-root"],
            envvar="SSLCLI_DATA_ROOT",
            help="Folder that holds the data sets' files.  [default: ~/.cache/sslcli/data]",
        ),
        Option(
            ["--distributed"],
            is_flag=True,
            default=False,
            help="Check that processes find each other: two of its own, or those that torchrun started.  "
            "[default: no]",
        ),
    ],
)
def command(data_root: str | None, distributed: bool, common: Common) -> Any:
    """Say what is installed, what the machine offers, what is missing and how to get it.

    Ends with exit code 8 if something is missing that sslcli cannot do without.
    """
    from sslcli.pipeline.doctor import diagnose

    return diagnose(data_root, distributed=distributed)
