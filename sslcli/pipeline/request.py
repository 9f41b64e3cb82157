"""What one job is asked to do, by the command line and by a recipe alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sslcli.options.steps import Settings


@dataclass(frozen=True)
class Request:
    """One call of one job.

    Attributes:
        command: the step's name.
        source: the model, as it is named on the command line.
        output: the file to write; None for jobs that only report.
        settings: the options, validated.
        others: further models (bench).
        force: whether an output of other origin may be replaced.
    """

    command: str
    source: str
    output: Path | None
    settings: Settings
    others: tuple[str, ...] = ()
    force: bool = False
