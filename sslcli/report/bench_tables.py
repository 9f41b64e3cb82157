"""Tables of what ``bench`` measured: whole models, then layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from sslcli.pipeline.results import BenchResult
from sslcli.report.numbers import count, speedup
from sslcli.report.tables import interval_cell, new_table, speedup_cell

Row = Mapping[str, Any]
Setting = tuple[str, int, int]


def print_bench(console: Console, result: BenchResult) -> None:
    """Print whole-model latencies, then the layers of each provider, thread count and batch size."""
    table = new_table("model", "median ms", "p90 ms", "speedup", "95 % interval")
    for row in result.rows:
        table.add_row(
            Text(row.name),
            f"{row.median_ms:.4f}",
            f"{row.p90_ms:.4f}",
            speedup_cell(row.speedup, row.speedup_low, row.speedup_high),
            interval_cell(row.speedup_low, row.speedup_high),
        )
    console.print(table)
    for setting, rows in layer_rows(result.comparison).items():
        console.print()
        console.print(_heading(setting))
        _print_layers(console, rows)
    for note in result.comparison.get("notes") or ():
        console.print(Text(str(note), style="yellow"))


def layer_rows(comparison: Mapping[str, Any]) -> dict[Setting, list[Row]]:
    """The rows of single layers, by (provider, threads, batch size), in the order measured."""
    found: dict[Setting, list[Row]] = {}
    for row in comparison.get("rows") or ():
        if row.get("layer") is not None:
            found.setdefault((row["provider"], row["threads"], row["batch_size"]), []).append(row)
    return found


def speedups(rows: Iterable[Row], subject: str | None = None) -> dict[str, Row]:
    """By layer, the row of one model against the base; of the last model where none is named."""
    compared = [row for row in rows if row.get("ratio") is not None and row.get("kind") == "onnx"]
    if compared and subject is None:
        subject = compared[-1]["subject"]
    return {row["layer"]: row for row in compared if row["subject"] == subject}


def _print_layers(console: Console, rows: Sequence[Row]) -> None:
    bases = {row["layer"]: row for row in rows if row.get("ratio") is None and row.get("kind") == "onnx"}
    subjects = list(dict.fromkeys((row["subject"], row["kind"]) for row in rows if row.get("ratio")))
    for subject, kind in subjects:
        title = str(subject) if kind == "onnx" else f"{subject}, {kind}"
        table = new_table("layer", "MACs", "base ms", "ms", "speedup", "95 % interval", "limit")
        for row in rows:
            if (row["subject"], row["kind"]) == (subject, kind) and row.get("ratio"):
                table.add_row(*_layer_cells(row, bases.get(row["layer"])))
        if len(subjects) > 1:
            console.print(Text(title, style="bold"))
        console.print(table)


def _layer_cells(row: Row, base: Row | None) -> tuple[str | Text, ...]:
    ratio = row["ratio"]
    return (
        Text(str(row["layer"])),
        "" if row.get("macs") is None else count(row["macs"]),
        "" if base is None else f"{base['latency']['median_ms']:.4f}",
        f"{row['latency']['median_ms']:.4f}",
        speedup_cell(ratio["value"], ratio["low"], ratio["high"]),
        interval_cell(ratio["low"], ratio["high"]),
        "" if row.get("limit") is None else speedup(row["limit"]),
    )


def _heading(setting: Setting) -> Text:
    provider, threads, batch_size = setting
    plural = "" if threads == 1 else "s"
    return Text(f"layers on {provider}, {threads} thread{plural}, batch {batch_size}", style="bold")
