"""The parts that tables are made of. Colour says one thing: green gained, red lost, yellow look here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sslcli.report import numbers

# keys of a layer, in the order and under the heads that tables show them
_LAYER_COLUMNS = {
    "name": "layer",
    "layer": "layer",
    "kind": "kind",
    "choice": "lowering",
    "lowering": "lowering",
    "filters": "filters",
    "channels": "channels",
    "columns": "columns",
    "macs": "MACs",
    "macs_before": "MACs before",
    "macs_after": "MACs after",
    "macs_packed": "packed",
}
_REMARKS = ("note", "why", "reason")


def new_table(*columns: str, left: int = 1, gap: int = 2) -> Table:
    """A table without lines: ``left`` columns of text, then numbers, ``gap`` characters apart."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
    for index, column in enumerate(columns):
        if index < left:
            table.add_column(column, justify="left", overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def layer_table(layers: Sequence[Mapping[str, Any]]) -> Table:
    """Layers as rows; values of unknown keys are left to the JSON, empty columns are left out."""
    keys = [key for key in _LAYER_COLUMNS if any(_given(layer.get(key)) for layer in layers)]
    remarks = [key for key in _REMARKS if any(layer.get(key) for layer in layers)]
    table = new_table(*(_LAYER_COLUMNS[key] for key in keys))
    for key in remarks:
        table.add_column(key, overflow="fold", style="dim", ratio=1)
    for layer in layers:
        table.add_row(
            *(cell(layer.get(key)) for key in keys), *(str(layer.get(key) or "") for key in remarks)
        )
    return table


def cell(value: object) -> str:
    """A value of any kind in a table; ``[5, 20]`` is 5 of 20."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return numbers.count(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return f"{cell(value[0])}/{cell(value[1])}"
    return str(value)


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


def _given(value: object) -> bool:
    return value is not None and value != ""
