"""Tables of what ``bench`` measured: whole models, then layer by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from sslcli.pipeline.results import BenchResult, Earlier
from sslcli.report.numbers import speedup
from sslcli.report.tables import interval_cell, new_table, speedup_cell
from sslcli.report.timings import Row, bases, by_setting, subjects


def print_bench(console: Console, result: BenchResult) -> None:
    """Print whole-model latencies, then the layers on each provider."""
    table = new_table("model", "median ms", "p90 ms", "speedup", "95 % interval")
    providers = {row.provider for row in result.rows}
    for row in result.rows:
        table.add_row(
            Text(f"{row.name}, {row.provider}" if len(providers) > 1 else row.name),
            f"{row.median_ms:.4f}",
            f"{row.p90_ms:.4f}",
            speedup_cell(row.speedup, row.speedup_low, row.speedup_high),
            interval_cell(row.speedup_low, row.speedup_high),
        )
    console.print(table)
    for provider, rows in by_setting([dataclasses.asdict(row) for row in result.layers]).items():
        _print_layers(console, rows, provider)
    if result.earlier is not None:
        _print_changes(console, result.earlier)
    for note in result.comparison.get("notes") or ():
        console.print(Text(str(note), style="yellow"))


def _print_layers(console: Console, rows: Sequence[Row], provider: str) -> None:
    dense = bases(rows)
    for name, kind in subjects(rows):
        title = name if kind == "onnx" else f"{name} as {kind}"
        table = new_table("layer", "base ms", "ms", "speedup", "95 % interval", "limit")
        for row in rows:
            if (row["name"], row["kind"]) == (name, kind) and row["speedup"] is not None:
                table.add_row(*_layer_cells(row, dense.get(row["layer"])))
        console.print()
        console.print(Text(f"layers of {title} on {provider}", style="bold"))
        console.print(table)


def _print_changes(console: Console, earlier: Earlier) -> None:
    table = new_table(
        "model", "layer", "ms then", "ms", "times faster", "95 % interval", "speedup then", "now"
    )
    for change in earlier.changes:
        interval = change.times_faster_low, change.times_faster_high
        table.add_row(
            Text(change.name if change.kind == "onnx" else f"{change.name} as {change.kind}"),
            Text(change.layer or "whole"),
            f"{change.old_ms:.4f}",
            f"{change.median_ms:.4f}",
            speedup_cell(change.times_faster, *interval),
            interval_cell(*interval),
            "" if change.old_speedup is None else speedup(change.old_speedup),
            "" if change.speedup is None else speedup(change.speedup),
        )
    console.print()
    console.print(Text(f"against {earlier.path} of {earlier.created}", style="bold"))
    console.print(table)
    for note in earlier.notes:
        console.print(Text(note, style="yellow"))


def _layer_cells(row: Row, base: Row | None) -> tuple[str | Text, ...]:
    return (
        Text(str(row["layer"])),
        "" if base is None else f"{base['median_ms']:.4f}",
        f"{row['median_ms']:.4f}",
        speedup_cell(row["speedup"], row["speedup_low"], row["speedup_high"]),
        interval_cell(row["speedup_low"], row["speedup_high"]),
        "" if row["limit"] is None else speedup(row["limit"]),
    )
