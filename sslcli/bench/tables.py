"""A comparison as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from sslcli.bench.results import Comparison, Row
from sslcli.bench.runner import ClockName
from sslcli.options.common import Provider

_COLUMNS = (
    "provider",
    "threads",
    "batch_size",
    "layer",
    "op_type",
    "subject",
    "kind",
    "macs",
    "limit",
    "median_ms",
    "p90_ms",
    "p99_ms",
    "minimum_ms",
    "throughput",
    "speedup",
    "speedup_low",
    "speedup_high",
)
_CLOCKS: dict[ClockName, str] = {
    "cpu": "CPU time of the one thread that runs, not wall time",
    "wall": "wall time",
}
# What tables that were written before begin with.
CSV_BEGINS = re.compile(",".join(_COLUMNS[:6]).encode())
MARKDOWN_BEGINS = re.compile(rb"### \w+, \d+ threads?, batch \d+\n")


def to_csv(comparison: Comparison) -> str:
    """One line a row, samples left out; empty where a row has no such number, and for whole models' layer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in comparison.rows:
        times, speed = row.latency, row.ratio
        writer.writerow(
            (
                *(row.provider, row.threads, row.batch_size, row.layer, row.op_type, row.subject, row.kind),
                *(row.macs, row.limit),
                *(times.median_ms, times.p90_ms, times.p99_ms, times.minimum_ms, times.throughput),
                *((speed.value, speed.low, speed.high) if speed else (None, None, None)),
            )
        )
    return text.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """A table for each provider, then the machine and what was left out."""
    parts = []
    for setting, rows in groupby(comparison.rows, key=_setting):
        table = list(rows)
        told = clock_line((row.provider, row.clock) for row in table)
        parts += [f"### {setting}", "", *_table(table), "", told, ""]
    host = comparison.host
    versions = ", ".join(f"{name} {version}" for name, version in host.versions.items())
    parts += [
        f"{host.cpu_model}, {len(host.affinity)} of {host.cpus} processors"
        + (f", {host.gpu}" if host.gpu else "")
        + f"; {host.system}; {versions}; {comparison.created}",
        "",
        *(f"- {_one_line(note)}" for note in comparison.notes),
    ]
    return "\n".join(parts).rstrip() + "\n"


def clock_line(clocks: Iterable[tuple[Provider, ClockName]]) -> str:
    """What the times of rows are made of, told once, or once for each provider where they differ."""
    told = {provider: _CLOCKS[clock] for provider, clock in clocks}
    if len(set(told.values())) == 1:
        return f"times are {next(iter(told.values()))}"
    return "; ".join(f"times on {provider} are {words}" for provider, words in told.items())


def _setting(row: Row) -> str:
    threads = f"{row.threads} thread" + ("s" if row.threads > 1 else "")
    return f"{row.provider}, {threads}, batch {row.batch_size}"


def _table(rows: Sequence[Row]) -> list[str]:
    header = (
        "layer",
        "model",
        "median ms",
        "p90 ms",
        "p99 ms",
        "items/s",
        "MACs",
        "speedup",
        "interval",
        "limit",
    )
    lines = ["| " + " | ".join(header) + " |", "| --- | --- |" + " ---: |" * (len(header) - 2)]
    return lines + ["| " + " | ".join(_cells(row)) + " |" for row in rows]


def _cells(row: Row) -> tuple[str, ...]:
    times, speed = row.latency, row.ratio
    return (
        "whole" if row.layer is None else _escaped(row.layer),
        _escaped(row.subject) + ("" if row.kind == "onnx" else f" as {row.kind}"),
        f"{times.median_ms:.4g}",
        f"{times.p90_ms:.4g}",
        f"{times.p99_ms:.4g}",
        f"{times.throughput:.4g}",
        "" if row.macs is None else f"{row.macs:,}",
        "" if speed is None else f"{speed.value:.2f}x",
        "" if speed is None else f"{speed.low:.2f} to {speed.high:.2f}",
        "" if row.limit is None or speed is None else f"{row.limit:.2f}x",
    )


def _escaped(text: str) -> str:
    return _one_line(text).replace("\\", r"\\").replace("|", r"\|")


def _one_line(text: str) -> str:
    """Names come from files, and a line break in one would end the row."""
    return " ".join(text.split())
