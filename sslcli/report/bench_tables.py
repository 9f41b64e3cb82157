"""Tables of what ``bench`` measured: whole models, then layer by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sslcli.pipeline.results import BenchChange, BenchResult, Earlier
from sslcli.report.numbers import per_cent, speedup
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
    _print_clock(console, result)
    whole_ms = {row.provider: row.median_ms for row in reversed(result.rows)}  # the base's, which is first
    for provider, rows in by_setting([dataclasses.asdict(row) for row in result.layers]).items():
        _print_layers(console, rows, provider)
        if not subjects(rows):
            _print_alone(console, rows, provider, whole_ms[provider])
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


def _print_alone(console: Console, rows: Sequence[Row], provider: str, whole_ms: float) -> None:
    """The layers of one model that nothing is held against; cut out, they need not add up to the whole."""
    table = new_table("layer", "median ms", "p90 ms", "of the whole")
    for row in rows:
        table.add_row(
            Text(str(row["layer"])),
            f"{row['median_ms']:.4f}",
            f"{row['p90_ms']:.4f}",
            per_cent(row["median_ms"] / whole_ms),
        )
    console.print()
    console.print(Text(f"layers of {rows[0]['name']} on {provider}", style="bold"))
    console.print(table)


def _print_clock(console: Console, result: BenchResult) -> None:
    from sslcli.bench.tables import clock_line  # late, since it loads torch, which other results do without

    rows = result.comparison.get("rows") or ()
    console.print(Text(clock_line((row["provider"], row["clock"]) for row in rows), style="dim"))


def _print_changes(console: Console, earlier: Earlier) -> None:
    console.print()
    console.print(Text(f"against {earlier.path} of {earlier.created}", style="bold"))
    for (name, kind, provider), changes in _by_subject(earlier.changes).items():
        title = name if kind == "onnx" else f"{name} as {kind}"
        console.print()
        console.print(Text(f"{title} on {provider}, now and then", style="bold"))
        console.print(_changes(changes))
    for note in earlier.notes:
        console.print(Text(note, style="yellow"))


def _by_subject(changes: Sequence[BenchChange]) -> dict[tuple[str, str, str], list[BenchChange]]:
    found: dict[tuple[str, str, str], list[BenchChange]] = {}
    for change in changes:
        found.setdefault((change.name, change.kind, change.provider), []).append(change)
    return found


def _changes(changes: Sequence[BenchChange]) -> Table:
    """Times and speedups, each beside what it was; the base has no speedup."""
    others = any(change.speedup is not None for change in changes)
    table = new_table(
        *("layer", "ms", "then", "faster", "95 % interval"), *(("speedup", "then") if others else ())
    )
    for change in changes:
        interval = change.times_faster_low, change.times_faster_high
        speeds = (change.speedup, change.old_speedup) if others else ()
        table.add_row(
            Text(change.layer or "whole"),
            f"{change.median_ms:.4f}",
            f"{change.old_ms:.4f}",
            speedup_cell(change.times_faster, *interval),
            interval_cell(*interval),
            *("" if speed is None else speedup(speed) for speed in speeds),
        )
    return table


def _layer_cells(row: Row, base: Row | None) -> tuple[str | Text, ...]:
    return (
        Text(str(row["layer"])),
        "" if base is None else f"{base['median_ms']:.4f}",
        f"{row['median_ms']:.4f}",
        speedup_cell(row["speedup"], row["speedup_low"], row["speedup_high"]),
        interval_cell(row["speedup_low"], row["speedup_high"]),
        "" if row["limit"] is None else speedup(row["limit"]),
    )
