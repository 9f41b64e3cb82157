"""The parts that tables are made of. Colour says one thing: green gained, red lost, yellow look here."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sslcli.report import numbers


def new_table(*columns: str, left: int = 1, gap: int = 2) -> Table:
    """A table without lines: ``left`` columns of text, then numbers, ``gap`` characters apart."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
    for index, column in enumerate(columns):
        if index < left:
            table.add_column(column, justify="left", overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def speedup_cell(value: float | None, low: float | None, high: float | None) -> Text:
    """A speedup: green where its whole interval is above 1, red where it is below."""
    if value is None:
        return Text("")
    style = ""
    if low is not None and high is not None:
        style = "green" if low > 1 else "red" if high < 1 else ""
    return Text(numbers.speedup(value), style=style)


def interval_cell(low: float | None, high: float | None) -> str:
    """The ends of an interval, or nothing."""
    return "" if low is None or high is None else numbers.interval(low, high)


def change_cell(name: str, before: float | None, after: float | None) -> Text:
    """By how much a metric changed; accuracies in points."""
    if before is None or after is None:
        return Text("")
    change = after - before
    better = change >= 0 if name == "accuracy" else change <= 0
    text = f"{100 * change:+.2f} points" if name == "accuracy" else f"{change:+.4f}"
    return Text(text, style="green" if better else "red")


def verified(console: Console, text: str) -> None:
    """What was checked, and found right."""
    console.print(Text.assemble(("verified", "green"), f": {text}"))


def file_line(console: Console, text: str, output: str) -> None:
    """Where the result is; the path stands whole on its line, so that it can be copied."""
    console.print(Text.assemble(f"{text} -> ", (output, "bold")), soft_wrap=True)


def notices(console: Console, notes: Iterable[str]) -> None:
    """Sentences that a user should see."""
    for note in notes:
        console.print(Text(note, style="yellow"))
