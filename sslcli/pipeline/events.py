"""What a run tells its observers while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StepEvent:
    """A step begins, is found unchanged, or has ended."""

    id: str
    uses: str
    index: int
    total: int
    state: str
    seconds: float = 0.0

    def line(self) -> str:
        """One line of a log."""
        text = f"[{self.index + 1}/{self.total}] {self.id} ({self.uses}): {self.state}"
        return f"{text} in {self.seconds:.1f} s" if self.seconds else text


@dataclass(frozen=True)
class Observers:
    """Who is told what; the functions must be quick and must not raise."""

    step: Callable[[StepEvent], None]
    training: tuple[Callable[[Any], None], ...] = ()


SILENT = Observers(step=lambda _event: None)
