"""Results as tables that fit 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.text import Text

from sslcli.pipeline import results
from sslcli.report import bench_tables, model_tables, run_tables
from sslcli.report.numbers import count, duration, metric, per_cent
from sslcli.report.runs import ReportResult
from sslcli.report.tables import change_cell, file_line, new_table, notices, verified


def render(console: Console, result: object) -> None:
    """Print ``result``.

    Raises:
        TypeError: there is no table for its class.
    """
    printer = _PRINTERS.get(type(result))
    if printer is None:
        raise TypeError(f"there is no table for {type(result).__name__}")
    if console.is_terminal:
        printer(console, result)
        return
    with console.capture() as captured:  # columns are padded, which nobody wants in a file
        printer(console, result)
    lines = captured.get().splitlines()
    console.file.write("".join(f"{line.rstrip()}\n" for line in lines))


def _training(console: Console, result: results.TrainingResult) -> None:
    table = new_table("", "before", "after", "change")
    for split, metrics in result.metrics.items():
        for name, value in metrics.items():
            before = result.before.get(name) if split == "validation" else None
            table.add_row(
                f"{split} {name}",
                "" if before is None else metric(name, before),
                metric(name, value),
                change_cell(name, before, value),
            )
    for structure, (zero, total) in result.zero_groups.items():
        table.add_row(f"zero groups, {structure}", "", f"{zero} of {total}", _share(zero, total))
    for name, fraction in result.left.items():
        table.add_row(f"{_CAPITALS.get(name, name)} left if pruned", "", per_cent(fraction), "")
    console.print(table)
    if result.course is not None:
        file_line(console, "course", result.course)
    file_line(console, f"{result.epochs} epochs in {duration(result.seconds)}", result.output)


def _evaluate(console: Console, result: results.EvaluateResult) -> None:
    table = new_table("", result.split)
    for name, value in result.metrics.items():
        table.add_row(name, Text(metric(name, value), style="bold" if name == "accuracy" else ""))
    console.print(table)
    console.print(f"{result.samples} samples of {result.data} in {duration(result.seconds)}", highlight=False)


def _apply_plan(console: Console, result: results.ApplyPlanResult) -> None:
    if result.max_abs_error is not None:
        verified(console, f"largest difference on the plan's probe {result.max_abs_error:.1e}")
    if result.fresh_weights:
        notices(
            console, ["The weights are fresh: load your own, or give the pruned .pt2 instead of its plan."]
        )
    file_line(console, f"{count(result.params)} parameters", result.output)


def _planned(console: Console, result: results.Planned) -> None:
    target = f" -> {result.output}" if result.output else ""
    console.print(Text(f"would {result.command} {result.source}{target}"), soft_wrap=True)
    if result.replaces:
        console.print(Text(f"{result.output} would be replaced", style="yellow"), soft_wrap=True)
    table = new_table("option", "value", left=2)
    for name, value in result.options.items():
        table.add_row(name, str(value))
    console.print(table)


def _diagnosis(console: Console, result: results.Diagnosis) -> None:
    colours = {"ok": "green", "missing": "red", "notice": "yellow"}
    width = max((len(finding.name) for finding in result.findings), default=0)
    for finding in result.findings:
        head = f"{finding.name:{width}}  "
        lines = _unbroken(finding.text, console.width - len(head) - 9)
        for number, line in enumerate(lines):
            begin = Text(f"{finding.state:9}", colours[finding.state]) if number == 0 else Text(" " * 9)
            console.print(begin + (head if number == 0 else " " * len(head)) + line, soft_wrap=True)


def _unbroken(text: str, width: int) -> list[str]:
    """Lines of about ``width``; a word that is longer, such as a path, stays whole to be copied."""
    lines = textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False)
    return lines or [""]


def _recipe_text(console: Console, result: results.RecipeText) -> None:
    if result.text:
        console.print(Text(result.text), soft_wrap=True)


def _report(console: Console, result: ReportResult) -> None:
    file_line(console, f"report on {', '.join(result.runs)}", result.output)


_CAPITALS = {"macs": "MACs", "macs_packed": "packed MACs", "params": "parameters"}

_PRINTERS: dict[type, Callable[[Console, Any], None]] = {
    results.TrainingResult: _training,
    results.PruneResult: model_tables.print_prune,
    results.ExportResult: model_tables.print_export,
    results.BenchResult: bench_tables.print_bench,
    results.InspectResult: model_tables.print_inspect,
    results.EvaluateResult: _evaluate,
    results.ApplyPlanResult: _apply_plan,
    results.Planned: _planned,
    results.RunResult: run_tables.print_run,
    results.Diagnosis: _diagnosis,
    results.RecipeText: _recipe_text,
    ReportResult: _report,
}


def _share(part: int, whole: int) -> Text:
    return Text(per_cent(part / max(whole, 1)), style="green" if part else "yellow")
