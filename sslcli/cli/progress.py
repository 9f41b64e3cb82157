"""Progress on stderr: live on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from sslcli.cli.show import is_first_process
from sslcli.cli.terminal import Terminal
from sslcli.pipeline.events import SILENT, Observers

Observer = Callable[[Any], None]


@contextlib.contextmanager
def progress(terminal: Terminal) -> Iterator[list[Observer]]:
    """Yield the functions that are told how training goes."""
    if terminal.quiet or not is_first_process():
        yield []
        return
    from sslcli.report.progress import show_progress

    with show_progress(terminal.err()) as view:
        yield [view]


@contextlib.contextmanager
def run_progress(terminal: Terminal) -> Iterator[Observers]:
    """The same for a recipe: which step, and the training inside it."""
    if terminal.quiet or not is_first_process():
        yield SILENT
        return
    from sslcli.report.progress import show_progress

    with show_progress(terminal.err()) as view:
        yield Observers(step=lambda event: view.line(event.line()), training=(view,))
