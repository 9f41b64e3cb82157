"""Which pictures a run's page shows, and what each of them says."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sslcli.report import masks, plots
from sslcli.report.numbers import count, per_cent, speedup
from sslcli.report.runs import Json, Run
from sslcli.report.timings import compared, last_bench

MOST_MAPS = 30
MOST_CHANNELS = 256
LIMIT = (
    "The limit is arithmetic, MACs before over MACs after; a smaller matrix also takes less memory traffic "
    "and may come to fit the cache, which can carry the speedup beyond it."
)


@dataclass(frozen=True)
class Figure:
    """A picture with its caption, and a second one in the same block where it has one."""

    title: str
    svg: Markup
    caption: str
    second: Figure | None = None


def can_draw() -> bool:
    """Whether the plotting library is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def accuracy_over_macs(runs: Sequence[Run], name: str) -> list[Figure]:
    """Test accuracy over the MACs left, one line a run; nothing unless two models were tested."""
    groups: dict[str, list[tuple[float, float, str]]] = {}
    for run in runs:
        dense = max(run.models[0]["macs"], 1) if run.models else 1
        points = [
            (100 * model["macs_packed"] / dense, 100 * (1 - model["error"]), str(model["id"]))
            for model in run.models
            if model["error"] is not None
        ]
        if points:
            groups[run.name] = points
    if sum(len(points) for points in groups.values()) < 2:
        return []
    alt = "; ".join(
        f"{run}: " + ", ".join(f"{label} {y:.2f} % at {x:.1f} % of the MACs" for x, y, label in points)
        for run, points in groups.items()
    )
    caption = "Test accuracy over the multiply-accumulates left (packed). Up and to the left is better."
    return [Figure("Accuracy over cost", Markup(plots.scatter(f"accuracy-{name}", groups, alt=alt)), caption)]


def what_is_left(run: Run, prefix: str) -> list[Figure]:
    """Bars of each layer's share of the network's MACs, before and after."""
    if len(run.models) < 2:
        return []
    before, after = run.models[0], run.smallest
    total = max(before["macs"], 1)
    left = {layer["name"]: layer["macs_packed"] for layer in after["layers"]}
    layers = [
        (str(layer["name"]), 100 * layer["macs"] / total, 100 * left.get(layer["name"], 0) / total)
        for layer in before["layers"]
        if layer["macs"]
    ]
    if not layers:
        return []
    alt = "MACs before and after: " + ", ".join(f"{name} {a:.1f} % to {b:.1f} %" for name, a, b in layers)
    counts = count(before["macs"]), count(after["macs_packed"])
    caption = f"{before['id']} ({counts[0]} MACs) against {after['id']} ({counts[1]} packed)."
    svg = plots.left_bars(f"{prefix}-left", layers, alt=alt)
    return [Figure("Where the arithmetic was, and what is left", Markup(svg), caption)]


def layer_speedups(run: Run, prefix: str) -> list[Figure]:
    """Bars of the measured speedup of each layer against the arithmetic limit."""
    rows = compared(last_bench(run.steps))
    if not rows:
        return []
    bars = [
        (name, row["speedup"], row["speedup_low"], row["speedup_high"], row["limit"])
        for name, row in rows.items()
    ]
    alt = "Speedups: " + ", ".join(f"{bar[0]} {speedup(bar[1])}" for bar in bars)
    provider = next(iter(rows.values()))["provider"]
    caption = f"Measured on {provider}, each layer cut out of the model with its real shapes. {LIMIT}"
    caption = f"{caption} Thin lines are 95 % intervals, the marks the limits."
    svg = plots.speedup_bars(f"{prefix}-speedup", bars, alt=alt)
    return [Figure("Speedup of each layer", Markup(svg), caption)]


def training_curves(step: str, records: Sequence[Json], prefix: str) -> list[Figure]:
    """Loss and penalty, accuracy, zero groups, strengths over the epochs of one step."""
    epochs = [record["epoch"] for record in records]
    figures = []
    for title, unit, lines, logarithmic in (
        ("loss", "loss", _series(records, ("loss", "penalty")), True),
        ("accuracy", "% right, validation", _accuracy(records), False),
        ("metric", "on the validation split", _other_metrics(records), False),
        ("zero groups", "% of the groups", _zero_groups(records), False),
        ("strengths", "strength", _mapped(records, "strengths"), False),
    ):
        curves = [plots.Curve(name, *_known(epochs, values)) for name, values in lines.items()]
        curves = [curve for curve in curves if curve.x and any(curve.y)]
        title = " and ".join(curve.name for curve in curves) if title in ("loss", "metric") else title
        if title in ("strengths", "zero groups") and not any(len(set(curve.y)) > 1 for curve in curves):
            continue  # nothing happened
        if curves:
            share = " %" if unit.startswith("%") else ""
            alt = f"{title} of {step}: " + ", ".join(
                f"{curve.name} from {curve.y[0]:.4g} to {curve.y[-1]:.4g}{share}" for curve in curves
            )
            name = f"{prefix}-{step}-{title.replace(' ', '-')}"
            svg = plots.curves(name, curves, x="epoch", y=unit, alt=alt, logarithmic=logarithmic)
            figures.append(Figure(f"{step}: {title}", Markup(svg), alt))
    return figures


def matrix_maps(path: Path, prefix: str) -> tuple[list[Figure], int]:
    """For each convolution, the GEMM matrix and, where its kernel has taps, the learned filter shape.

    Returns:
        The figures, and how many convolutions are not shown.
    """
    found = masks.conv_masks(path)
    shown = dict(sorted(found.items(), key=lambda item: -item[1].size)[:MOST_MAPS])
    figures = []
    for layer, live in found.items():
        if layer in shown:
            figures.append(_layer_map(layer, live, f"{prefix}-{layer.replace('.', '-')}"))
    return figures, len(found) - len(shown)


def _layer_map(layer: str, live: plots.Mask, prefix: str) -> Figure:
    words = masks.describe(live)
    matrix = live.reshape(live.shape[0], -1)
    svg = plots.gemm_map(f"{prefix}-gemm", matrix, alt=f"{layer} as a matrix: {words}")
    caption = f"{words}, {per_cent(float(matrix.any(1).mean() * matrix.any(0).mean()))} of its arithmetic."
    figure = Figure(f"{layer} as a matrix", Markup(svg), caption)
    taps = live.any(0).reshape(live.shape[1], -1, live.shape[-1])
    if taps[0].size > 1 and len(taps) <= MOST_CHANNELS:
        svg = plots.shape_map(f"{prefix}-shape", taps, alt=f"Taps of {layer} that are left, a tile a channel")
        caption = "One tile per input channel: the taps of the kernel that some filter still uses."
        figure = replace(figure, second=Figure(f"{layer}: learned filter shape", Markup(svg), caption))
    return figure


def _series(records: Sequence[Json], names: Sequence[str]) -> dict[str, list[Any]]:
    return {name: [record.get(name) for record in records] for name in names}


def _accuracy(records: Sequence[Json]) -> dict[str, list[Any]]:
    values = [(record.get("metrics") or {}).get("accuracy") for record in records]
    return {"accuracy": [None if value is None else 100 * value for value in values]}


def _other_metrics(records: Sequence[Json]) -> dict[str, list[Any]]:
    """What another task than classification measures."""
    every = [record.get("metrics") or {} for record in records]
    names = {name for metrics in every for name in metrics} - {"accuracy", "loss"}
    return {name: [metrics.get(name) for metrics in every] for name in sorted(names)}


def _zero_groups(records: Sequence[Json]) -> dict[str, list[Any]]:
    names = {name for record in records for name in record.get("zero_groups") or {}}
    found: dict[str, list[Any]] = {}
    for name in sorted(names):
        pairs = [(record.get("zero_groups") or {}).get(name) for record in records]
        found[name] = [None if pair is None else 100 * pair[0] / max(pair[1], 1) for pair in pairs]
    return found


def _mapped(records: Sequence[Json], key: str) -> dict[str, list[Any]]:
    names = {name for record in records for name in record.get(key) or {}}
    return {name: [(record.get(key) or {}).get(name) for record in records] for name in sorted(names)}


def _known(epochs: Sequence[float], values: Sequence[Any]) -> tuple[list[float], list[float]]:
    pairs = [(epoch, float(value)) for epoch, value in zip(epochs, values, strict=True) if value is not None]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]
