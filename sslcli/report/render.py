"""Results as tables that fit 80 columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from sslcli.pipeline import results
from sslcli.report.numbers import count, per_cent, size


def render(console: Console, result: object) -> None:
    """Print ``result``."""
    printer = _PRINTERS.get(type(result))
    if printer is None:
        raise TypeError(f"there is no table for {type(result).__name__}")
    printer(console, result)


def _training(console: Console, result: results.TrainingResult) -> None:
    table = _table("", "before", "after")
    for split, metrics in result.metrics.items():
        for name, value in metrics.items():
            before = result.before.get(name) if split == "validation" else None
            table.add_row(f"{split} {name}", _metric(name, before), _metric(name, value))
    for structure, (zero, total) in result.zero_groups.items():
        table.add_row(f"zero groups, {structure}", "", f"{zero} of {total}")
    for name, fraction in result.left.items():
        table.add_row(f"{name} left if pruned", "", per_cent(fraction))
    console.print(table)
    console.print(f"{result.epochs} epochs in {result.seconds:.1f} s -> {result.output}")


def _prune(console: Console, result: results.PruneResult) -> None:
    table = _table("", "before", "after", "left")
    for name, before, after in (
        ("MACs", result.macs_before, result.macs_after),
        ("MACs, packed", result.macs_before, result.macs_packed),
        ("parameters", result.params_before, result.params_after),
    ):
        table.add_row(name, count(before), count(after), per_cent(after / max(before, 1)))
    console.print(table)
    for split, metrics in result.metrics.items():
        console.print(f"{split}: " + ", ".join(f"{name} {_metric(name, v)}" for name, v in metrics.items()))
    console.print(
        f"verified: largest difference {result.max_abs_error:.2e} (relative {result.max_rel_error:.2e}), "
        f"reloaded {result.reloaded_abs_error:.2e}"
    )
    console.print(f"{size(result.size_bytes)} -> {result.output}")


def _export(console: Console, result: results.ExportResult) -> None:
    if result.layers:
        table = _table(*result.layers[0])
        for layer in result.layers:
            table.add_row(*(_cell(value) for value in layer.values()))
        console.print(table)
    console.print(
        f"verified: largest difference {result.max_abs_error:.2e} (relative {result.max_rel_error:.2e})"
    )
    console.print(f"{size(result.size_bytes)}, lowering {result.lowering} -> {result.output}")


def _bench(console: Console, result: results.BenchResult) -> None:
    table = _table("model", "median ms", "p90 ms", "speedup", "95 % interval")
    for row in result.rows:
        interval = "" if row.speedup_low is None else f"{row.speedup_low:.2f} .. {row.speedup_high:.2f}"
        speedup = "" if row.speedup is None else f"{row.speedup:.2f}x"
        table.add_row(row.name, f"{row.median_ms:.4f}", f"{row.p90_ms:.4f}", speedup, interval)
    console.print(table)


def _inspect(console: Console, result: results.InspectResult) -> None:
    if result.layers:
        table = _table(*result.layers[0])
        for layer in result.layers:
            table.add_row(*(_cell(value) for value in layer.values()))
        console.print(table)
    console.print(
        f"{count(result.macs)} MACs ({count(result.macs_packed)} packed), {count(result.params)} parameters"
    )


def _evaluate(console: Console, result: results.EvaluateResult) -> None:
    for name, value in result.metrics.items():
        console.print(f"{name} {_metric(name, value)}")
    console.print(f"{result.samples} {result.split} samples of {result.data} in {result.seconds:.1f} s")


def _apply_plan(console: Console, result: results.ApplyPlanResult) -> None:
    console.print(f"{count(result.params)} parameters -> {result.output}")


def _planned(console: Console, result: results.Planned) -> None:
    console.print(
        f"would {result.command} {result.source}" + (f" -> {result.output}" if result.output else "")
    )
    if result.replaces:
        console.print(f"{result.output} would be replaced")
    for name, value in result.options.items():
        console.print(f"  {name}: {value}")


def _run(console: Console, result: results.RunResult) -> None:
    table = _table("step", "uses", "needs", "state", "seconds")
    for step in result.steps:
        state = step.state if not step.reason else f"{step.state} ({step.reason})"
        table.add_row(step.id, step.uses, ", ".join(step.needs), state, f"{step.seconds:.1f}")
    console.print(table)
    if result.models:
        console.print(_models(result.models))
    for step in result.steps:
        for output in step.outputs:
            console.print(f"{step.id}: {output}", soft_wrap=True)
    if result.report:
        console.print(f"report: {result.report}", soft_wrap=True)


def _models(models: list[results.ModelRow]) -> Table:
    """The paper's table: what is left per convolution, joined by dashes."""
    table = _table("model", "error", "filters", "channels", "columns", "FLOP %", "ms", "speedup")
    dense = {layer["name"]: layer for layer in models[0].layers}
    for row in models:
        convs = [layer for layer in row.layers if layer["kind"] == "conv"]
        shares = [100 * layer["macs_packed"] / dense.get(layer["name"], layer)["macs"] for layer in convs]
        interval = "" if row.speedup_low is None else f"\n{row.speedup_low:.2f}..{row.speedup_high:.2f}"
        table.add_row(
            row.id,
            "" if row.error is None else f"{100 * row.error:.2f} %",
            "-".join(str(layer["filters"]) for layer in convs),
            "-".join(str(layer["channels"]) for layer in convs),
            "-".join(str(layer["columns"]) for layer in convs),
            "-".join(f"{share:.3g}" for share in shares),
            "" if row.latency_ms is None else f"{row.latency_ms:.3f}",
            "" if row.speedup is None else f"{row.speedup:.2f}x{interval}",
        )
    return table


def _diagnosis(console: Console, result: results.Diagnosis) -> None:
    table = _table("", "what", "found")
    marks = {"ok": "[green]ok[/]", "missing": "[red]missing[/]", "notice": "[yellow]notice[/]"}
    for finding in result.findings:
        table.add_row(marks[finding.state], finding.name, finding.text)
    console.print(table)


def _recipe_text(console: Console, result: results.RecipeText) -> None:
    console.print(result.text, markup=False, soft_wrap=True)


_PRINTERS: dict[type, Callable[[Console, Any], None]] = {
    results.TrainingResult: _training,
    results.PruneResult: _prune,
    results.ExportResult: _export,
    results.BenchResult: _bench,
    results.InspectResult: _inspect,
    results.EvaluateResult: _evaluate,
    results.ApplyPlanResult: _apply_plan,
    results.Planned: _planned,
    results.RunResult: _run,
    results.Diagnosis: _diagnosis,
    results.RecipeText: _recipe_text,
}


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column.replace("_", " "), justify="left" if index == 0 else "right")
    return table


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return count(value)
    return str(value)


def _metric(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if name == "accuracy" else f"{value:.4f}"
