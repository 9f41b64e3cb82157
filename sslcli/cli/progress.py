"""Progress of training: live on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from sslcli.cli.terminal import Terminal

Observer = Callable[[Any], None]


@contextlib.contextmanager
def progress(terminal: Terminal) -> Iterator[Observer]:
    """Yield a function that shows the ``Progress`` records that it is called with."""
    if terminal.quiet:
        yield lambda _record: None
        return
    yield lambda record: terminal.notice(str(record))
