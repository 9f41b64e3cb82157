"""What a run writes to: results on stdout, all else on stderr, as loud as was asked for."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class Terminal:
    """The streams of one command.

    Attributes:
        verbosity: -1 quiet, 0 normal, 1 more, 2 with tracebacks.
    """

    verbosity: int = 0

    @property
    def color(self) -> bool | None:
        """False where NO_COLOR is set; None leaves it to whether the stream is a terminal."""
        return False if os.environ.get("NO_COLOR") else None

    @property
    def quiet(self) -> bool:
        """Whether nothing but results and errors is wanted."""
        return self.verbosity < 0

    def out(self) -> Console:
        """The console of results."""
        return _console(stderr=False)

    def err(self) -> Console:
        """The console of progress and notices."""
        return _console(stderr=True)

    def notice(self, text: str) -> None:
        """One plain line on stderr, unless quiet."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def configure(self, verbosity: int) -> None:
        """Set how much is said, and turn warnings and log records into lines on stderr.

        Other people's warnings are for developers: they are shown from -v on.
        """
        self.verbosity = verbosity
        level = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
        logger = logging.getLogger("sslcli")
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(level)
        if verbosity < 1:
            warnings.simplefilter("ignore")
            logging.getLogger("torch").setLevel(logging.ERROR)
        if verbosity >= 0:
            warnings.filterwarnings("default", module=r"sslcli\b")
        warnings.showwarning = _show_warning


class _Formatter(logging.Formatter):
    """``Warning: ...``, as errors are ``Error: ...``."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as a line."""
        record.levelname = record.levelname.capitalize()
        return super().format(record)


def _console(stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 80
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_rest: Any, **_named: Any
) -> None:
    print(f"Warning: {message}", file=sys.stderr, flush=True)  # noqa: T201
