"""Results to stdout and to the JSON file that was asked for."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from sslcli.cli.terminal import Terminal
from sslcli.errors import TargetError
from sslcli.files import atomic_output


def is_first_process() -> bool:
    """Whether this is the process that speaks, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def show(result: object, json_to: str | None, terminal: Terminal) -> None:
    """Print ``result`` as tables, or as JSON alone with ``--json -``; then raise what it failed of.

    A result may carry a ``failure``: numbers that were asked for are shown even if a gate on them is not
    met. A target is missed by all processes alike, so the first fails for all: torchrun ends the others as
    soon as one has failed, and the first may not have written everything by then.
    """
    if is_first_process() and result is not None:
        from sslcli.report import render

        write_json(result, json_to)
        if json_to != "-":
            render(terminal.out(), result)
    failure = getattr(result, "failure", None)
    if isinstance(failure, Exception) and (is_first_process() or not isinstance(failure, TargetError)):
        raise failure


def write_json(result: object, json_to: str | None) -> None:
    """``result`` as JSON where ``--json`` wants it."""
    if json_to is None:
        return
    from sslcli.report import to_json

    write_text(json.dumps(to_json(result), indent=2, allow_nan=False) + "\n", json_to)


def write_text(text: str, to: str) -> None:
    """Write to a file, whole or not at all, or to stdout (``-``)."""
    if to == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    with atomic_output(Path(to)) as temporary:
        temporary.write_text(text)
