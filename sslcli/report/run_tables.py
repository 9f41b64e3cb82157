"""The tables that close a run: its steps, its models, and the paper's table of what is left a layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sslcli.pipeline.results import ModelRow, RunResult, StepOutcome
from sslcli.report.numbers import count, duration, metric, per_cent, size
from sslcli.report.runs import smallest
from sslcli.report.tables import interval_cell, new_table, speedup_cell
from sslcli.report.timings import Row, compared, last_bench

_STATES = {"run": "green", "cached": "dim", "to run": "yellow", "failed": "red"}


def print_run(console: Console, result: RunResult) -> None:
    """Print steps, models, layers and where the files are."""
    console.print(_steps(result.steps))
    if result.models:
        console.print()
        console.print(models_table(result.models))
    if len(result.models) > 1:
        small = result.models[smallest([model.macs_packed for model in result.models])]
        timed = compared(last_bench([dataclasses.asdict(step) for step in result.steps]))
        console.print()
        console.print(layers_table(result.models[0], small, timed))
    console.print()
    for step in result.steps:
        for output in step.outputs:
            console.print(Text.assemble(f"{step.id}: ", (output, "bold")), soft_wrap=True)
    if result.report:
        console.print(Text.assemble("report: ", (result.report, "bold")), soft_wrap=True)


def models_table(models: Sequence[ModelRow]) -> Table:
    """One row a model: error, what is left of the first model's cost, latency."""
    name = metric_name(models)
    heads = ("model", name, "MACs", "left", "params", "size", "ms", "speedup", "interval")
    table = new_table(*heads, gap=1 if any(_form(row) for row in models) else 2)
    dense = models[0]
    for row in models:
        table.add_row(
            Text(row.id),
            _quality(row, dense, name),
            count(row.macs),
            per_cent(row.macs / max(dense.macs, 1)),
            f"{count(row.params)}{_form(row)}",
            f"{size(row.size_bytes)}{_form(row)}",
            "" if row.latency_ms is None else f"{row.latency_ms:.3f}",
            speedup_cell(row.speedup, row.speedup_low, row.speedup_high),
            interval_cell(row.speedup_low, row.speedup_high),
        )
    return table


def _form(row: ModelRow) -> str:
    """A mark on what is counted of an ONNX file: norms are folded in it, and it holds less than a .pt2."""
    return " onnx" if row.onnx == row.id else ""


def layers_table(before: ModelRow, after: ModelRow, timed: Mapping[str, Row]) -> Table:
    """The paper's table, one row a convolution: filters, channels, columns, FLOP, time, speedup."""
    table = new_table("conv", "filters", "channels", "columns", "FLOP", "ms", "speedup", "interval", gap=1)
    left = {layer["name"]: layer for layer in after.layers}
    for layer in (layer for layer in before.layers if layer["kind"] == "conv"):
        name = str(layer["name"])
        row = timed.get(name, {})
        table.add_row(
            Text(name),
            *(_left(layer, left.get(name), key) for key in ("filters", "channels", "columns")),
            per_cent(left[name]["macs_packed"] / max(layer["macs"], 1)) if name in left else "gone",
            f"{row['median_ms']:.4f}" if row else "",
            speedup_cell(row.get("speedup"), row.get("speedup_low"), row.get("speedup_high")),
            interval_cell(row.get("speedup_low"), row.get("speedup_high")),
        )
    return table


def _steps(steps: Sequence[StepOutcome]) -> Table:
    table = new_table("step", "uses", "needs", "state", "time", left=4)
    for step in steps:
        state = f"{step.state} ({step.reason})" if step.reason else step.state
        table.add_row(
            Text(step.id),
            step.uses,
            ", ".join(step.needs),
            Text(state, style=_STATES.get(step.state, "")),
            duration(step.seconds) if step.state in ("run", "failed") else "",
        )
    return table


def _left(before: Mapping[str, Any], after: Mapping[str, Any] | None, key: str) -> str:
    return f"{after[key] if after else 0}/{before[key]}"


def metric_name(models: Sequence[ModelRow]) -> str:
    """What the table says about quality: the error of classifiers, else the task's own metric."""
    if all(row.error is None for row in models):
        return next((name for row in models for name in row.metric), "error")
    return "error"


def _quality(row: ModelRow, dense: ModelRow, name: str) -> str | Text:
    if name != "error":
        return metric(name, row.metric[name]) if name in row.metric else ""
    return "" if row.error is None else _error(row.error, dense.error)


def _error(error: float, dense: float | None) -> Text:
    worse = dense is not None and error > dense + 0.005
    return Text(f"{100 * error:.2f} %", style="red" if worse else "")
