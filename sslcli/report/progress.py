"""The course of a training: a live line at the foot of a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sslcli.report.numbers import count, duration, metric, per_cent
from sslcli.training.progress import Progress

PLAIN_EVERY_S = 30.0
REFRESH_PER_S = 4.0


class ProgressView:
    """Shows ``Progress`` records; call it with each one.

    Epochs become lines that stay; what happens within an epoch (steps, strengths that the controller moves)
    is drawn over and over on the live part below them, and off a terminal only every half minute.
    """

    def __init__(self, console: Console, live: Live | None) -> None:
        self._console = console
        self._live = live
        self._last_line = time.monotonic()

    def __call__(self, record: Progress) -> None:
        """Show one record; exact strengths are for a replay, not for reading."""
        if record.kind == "strengths":
            return
        if record.kind in ("step", "control"):
            self._within_an_epoch(record)
        else:
            self._line(describe(record, pace=self._live is None or record.kind == "end"))
        if self._live is not None:
            self._live.update(Text("") if record.kind == "end" else panel(record))

    def line(self, text: str) -> None:
        """Print one line above the live part."""
        self._line(Text(text))

    def _within_an_epoch(self, record: Progress) -> None:
        if self._live is None and time.monotonic() - self._last_line >= PLAIN_EVERY_S:
            self._line(describe(record))

    def _line(self, text: Text) -> None:
        self._last_line = time.monotonic()
        self._console.print(text, soft_wrap=True)


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[ProgressView]:
    """Yield a view on ``console``: live if that is a terminal, plain lines if not."""
    if not console.is_terminal:
        yield ProgressView(console, None)
        return
    with Live(console=console, refresh_per_second=REFRESH_PER_S, transient=True) as live:
        yield ProgressView(console, live)


def describe(record: Progress, *, pace: bool = True) -> Text:
    """One record as one line; what a record does not know is left out.

    Args:
        record: what to tell.
        pace: whether to say how fast it goes and how long it takes; the live part below says it too.
    """
    parts = [_head(record)]
    if record.loss is not None:
        parts.append(Text(f"loss {record.loss:.4f}"))
    if record.penalty:
        parts.append(Text(f"penalty {record.penalty:.4g}"))
    for name, value in record.metrics.items():
        if name != "loss":
            parts.append(Text(f"{name} {metric(name, value)}", style="bold"))
    parts += [Text(text, style="green") for text in _zeros(record)]
    parts += [Text(text, style="green") for text in _left(record)]
    if record.kind == "control":
        parts.append(Text("strengths " + _strengths(record), style="cyan"))
    if pace:
        parts += [Text(text, style="dim") for text in _pace(record)]
    return Text("  ").join(parts)


def panel(record: Progress) -> RenderableType:
    """The live part: a bar over the whole run, and the figures of the moment below it."""
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        _head(record),
        ProgressBar(total=max(record.steps, 1), completed=record.step, width=24),
        Text("  ".join(_pace(record)), style="dim"),
    )
    figures = [] if record.kind != "control" else [f"strengths {_strengths(record)}"]
    if record.loss is not None:
        figures.append(f"loss {record.loss:.4f}")
    if record.penalty:
        figures.append(f"penalty {record.penalty:.4g}")
    if record.lr is not None:
        figures.append(f"lr {record.lr:.3g}")
    return Group(
        bar, Text("  ".join([*figures, *_zeros(record), *_left(record)]), no_wrap=True, overflow="ellipsis")
    )


def _head(record: Progress) -> Text:
    width = len(str(record.epochs))
    if record.kind in ("step", "control"):
        place = f"{record.epoch:{width + 2}.1f}/{record.epochs}"
    else:
        place = f"{round(record.epoch):{width}d}/{record.epochs}"
    words = {"start": " starts at", "end": " done at"}.get(record.kind, "")
    return Text(f"{record.phase}{words} {place}")


def _zeros(record: Progress) -> list[str]:
    if not record.zero_groups:
        return []
    groups = (f"{structure} {zero}/{total}" for structure, (zero, total) in record.zero_groups.items())
    return ["zero " + ", ".join(groups)]


def _left(record: Progress) -> list[str]:
    """What pruning now would leave: the arithmetic as executed, and as packed where that is less."""
    left = record.left
    shown = [f"MACs {per_cent(left['macs'])}"] if "macs" in left else []
    packed = left.get("macs_packed")
    if packed is not None and packed < 0.995 * left.get("macs", 1.0):
        shown.append(f"packed {per_cent(packed)}")
    return shown


def _strengths(record: Progress) -> str:
    """By structure, from the least to the most over its layers."""
    ranges: dict[str, list[float]] = {}
    for name, value in record.strengths.items():
        ranges.setdefault(name.partition(":")[0], []).append(value)
    return ", ".join(
        f"{name} {min(values):.3g}" + (f"-{max(values):.3g}" if max(values) > min(values) else "")
        for name, values in ranges.items()
    )


def _pace(record: Progress) -> list[str]:
    if record.kind == "end":
        return [f"in {duration(record.seconds)}"]
    pace = [f"{count(round(record.images_per_s))} img/s"] if record.images_per_s else []
    if record.seconds_left is not None:
        pace.append(f"{duration(record.seconds_left)} left")
    return pace
