"""Signals become requests that the loop looks at between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class Requests:
    """What signals asked for.

    Args:
        stop: name of the signal that asked to stop, or None.
        save: whether to save the state at the next step and go on.
    """

    stop: str | None = None
    save: bool = False


@contextlib.contextmanager
def requests() -> Iterator[Requests]:
    """Turn SIGINT and SIGTERM into a request to stop and SIGUSR1 into one to save.

    A second SIGINT ends at once, by KeyboardInterrupt. Handlers are installed in the main thread only
    (Python allows no other) and those that stood before are put back. A request to stop that nobody saw to
    in time, and that no error goes before, is handed to them, so that it is not lost.
    """
    asked = Requests()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def on_stop(number: int, frame: FrameType | None) -> None:
        if asked.stop is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.stop = signal.Signals(number).name

    def on_save(number: int, frame: FrameType | None) -> None:
        asked.save = True

    handlers = {signal.SIGINT: on_stop, signal.SIGTERM: on_stop, signal.SIGUSR1: on_save}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
    if asked.stop is not None:
        signal.raise_signal(signal.Signals[asked.stop])
