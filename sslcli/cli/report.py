from __future__ import annotations

from pathlib import Path

import click

from sslcli.cli.command import Common, plain_command
from sslcli.errors import OutputError

_FOLDERS = click.Argument(
    ["folders"], nargs=-1, required=True, metavar="DIR...", type=click.Path(path_type=Path)
)
_FORCE = "Replace a file that is not a report of sslcli."


@plain_command(
    "report",
    output="required",
    arguments=[_FOLDERS],
    output_help="The HTML file to write.",
    force_help=_FORCE,
)
def command(folders: tuple[Path, ...], common: Common) -> object:
    """Write one self-contained HTML page about the runs in DIR... (folders that `sslcli run` made).

    Needs no network to be read; pictures need the extra sslcli[report].
    """
    from sslcli.report.html import is_report, write_report
    from sslcli.report.runs import ReportResult, read_runs

    if common.output is None or common.dry_run:
        return ReportResult(str(common.output), [run.name for run in read_runs(folders)])
    if not common.force and common.output.is_file() and not is_report(common.output):
        raise OutputError(f"{common.output} is not a report of sslcli", "give --force to replace it")
    return write_report(folders, common.output)
