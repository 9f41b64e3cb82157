"""The figures of a page that stand in tables and tiles, as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sslcli.report import numbers
from sslcli.report.runs import Json, Run
from sslcli.report.timings import bases, compared, last_bench


@dataclass(frozen=True)
class Tile:
    """One number before and after; ``good`` says whether the change is one, None that it has no side."""

    label: str
    before: str
    after: str
    change: str
    good: bool | None
    detail: str = ""


@dataclass(frozen=True)
class Grid:
    """A table: its heads, and rows of text; the first ``left`` columns are words."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


def tiles(run: Run) -> list[Tile]:
    """Accuracy, MACs, parameters, file size and latency of the first and the last model."""
    if not run.models:
        return []
    before, after = run.models[0], run.models[-1]
    found = [
        _accuracy_tile(before, after, _test_samples(run), _dense_note(run.models))
        or _metric_tile(before, after, metric_name(run.models)),
        _less_tile("MACs", before["macs"], after["macs_packed"], numbers.count, "fewer"),
        _less_tile("parameters", before["params"], after["params"], numbers.count, "fewer"),
        _less_tile("file size", before["size_bytes"], after["size_bytes"], numbers.size, "smaller"),
        _latency_tile(run.models),
    ]
    return [tile for tile in found if tile is not None]


def models(run: Run) -> Grid:
    """One row a model."""
    rows = []
    name = metric_name(run.models)
    for model in run.models:
        dense = max(run.models[0]["macs"], 1)
        rows.append(
            [
                str(model["id"]),
                _quality(model, name),
                numbers.count(model["macs"]),
                numbers.count(model["macs_packed"]),
                numbers.per_cent(model["macs_packed"] / dense),
                numbers.count(model["params"]),
                numbers.size(model["size_bytes"]),
                "" if model["latency_ms"] is None else numbers.milliseconds(model["latency_ms"]),
                "" if model["speedup"] is None else numbers.speedup(model["speedup"]),
                _interval(model),
            ]
        )
    heads = (
        "model", f"test {name}", "MACs executed", "MACs packed", "left", "parameters", "file",
        "latency", "speedup", "95 % interval",
    )  # fmt: skip
    return Grid(heads, rows)


def layers(run: Run) -> Grid | None:
    """Each layer of the first model with what the last one kept of it, and its time; None without both."""
    if len(run.models) < 2:
        return None
    after = {layer["name"]: layer for layer in run.models[-1]["layers"]}
    timed = last_bench(run.steps)
    fast, dense = compared(timed), bases(timed)
    rows = []
    for layer in run.models[0]["layers"]:
        left, row, base = after.get(layer["name"]), fast.get(layer["name"]), dense.get(layer["name"])
        rows.append(
            [
                str(layer["name"]),
                str(layer["kind"]),
                *(_of(left, layer, key) for key in ("filters", "channels", "columns")),
                numbers.count(layer["macs"]),
                numbers.per_cent((left["macs_packed"] if left else 0) / max(layer["macs"], 1)),
                "" if base is None else numbers.milliseconds(base["median_ms"]),
                "" if row is None else numbers.milliseconds(row["median_ms"]),
                "" if row is None else numbers.speedup(row["speedup"]),
                "" if row is None else _interval(row),
                "" if row is None or row["limit"] is None else numbers.speedup(row["limit"]),
                "gone" if left is None else str(left.get("note") or ""),
            ]
        )
    heads = [
        "layer", "kind", "filters", "channels", "columns", "MACs", "FLOP left", "dense time", "time",
        "speedup", "95 % interval", "limit", "note",
    ]  # fmt: skip
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return Grid(heads, rows, left=2)


def steps(run: Run) -> Grid:
    """What was run, with the options that the recipe or the command line states."""
    rows = [
        [
            str(step["id"]),
            str(step["uses"]),
            ", ".join(step["needs"]),
            str(step["state"]),
            numbers.duration(step["seconds"]).replace(" ", "\u00a0"),
            _flow(run.given.get(step["id"], {})),
        ]
        for step in run.steps
    ]
    return Grid(("step", "command", "needs", "state", "time", "options"), rows, left=6)


def origin(run: Run) -> str:
    """When the work was done and from which seeds, as its records say it; empty where they do not."""
    days = [date.replace("T", " ").removesuffix("+00:00") for date in run.dates]
    said = [f"Made {' to '.join(dict.fromkeys((days[0], days[-1])))} UTC"] if days else []
    if run.seeds:
        said.append(f"seed{'s' if len(run.seeds) > 1 else ''} {', '.join(map(str, run.seeds))}")
    return ", ".join(said)


def host(run: Run) -> dict[str, str]:
    """The machine that timed the models, as the last bench step recorded it."""
    for step in reversed(run.steps):
        comparison = step["result"].get("comparison") or {}
        if comparison.get("host"):
            plain = {key: value for key, value in comparison["host"].items() if value is not None}
            versions = plain.pop("versions", {})
            first = (comparison.get("rows") or [{}])[0]
            setting = {name: first[name] for name in ("threads", "batch_size") if name in first}
            return {name: _words(value) for name, value in {**plain, **setting, **versions}.items()}
    return {}


def wilson(successes: float, samples: int) -> tuple[float, float]:
    """95 % interval of a fraction of independent samples.

    Reference:
        Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.
    """
    z = 1.959964
    fraction = successes / samples
    middle = fraction + z * z / (2 * samples)
    half = z * math.sqrt(fraction * (1 - fraction) / samples + z * z / (4 * samples * samples))
    scale = 1 + z * z / samples
    return (middle - half) / scale, (middle + half) / scale


def _dense_note(models: Sequence[Json]) -> str:
    """The best model of the first one's size, if that is another: what the gain must be held against."""
    first, last = models[0], models[-1]
    others = [m for m in models[1:] if m["macs_packed"] == first["macs"] and m["error"] is not None]
    best = min(others, key=lambda model: model["error"], default=None)
    if best is None or best is last or first["error"] is None or best["error"] >= first["error"]:
        return ""
    return f"{best['id']}, as large as {first['id']}: {100 * (1 - best['error']):.2f} %"


def _accuracy_tile(before: Json, after: Json, samples: int | None, note: str = "") -> Tile | None:
    if before["error"] is None or after["error"] is None:
        return None
    change = before["error"] - after["error"]
    detail = ""
    if samples:
        spans = [wilson((1 - model["error"]) * samples, samples) for model in (before, after)]
        words = [f"{100 * low:.2f} to {100 * high:.2f} %" for low, high in spans]
        detail = f"95 % intervals {words[0]} before, {words[1]} after, {samples} samples"
    detail = "; ".join(filter(None, [note, detail]))
    return Tile(
        "test accuracy",
        f"{100 * (1 - before['error']):.2f} %",
        f"{100 * (1 - after['error']):.2f} %",
        f"{100 * change:+.2f} points",
        change >= 0,
        detail,
    )


def metric_name(models: Sequence[Json]) -> str:
    """What the page says about quality: the error of classifiers, else the task's own metric."""
    if all(model["error"] is None for model in models):
        return next((name for model in models for name in model.get("metric") or {}), "error")
    return "error"


def _quality(model: Json, name: str) -> str:
    if name != "error":
        return numbers.metric(name, model["metric"][name]) if name in (model.get("metric") or {}) else ""
    return "" if model["error"] is None else f"{100 * model['error']:.2f} %"


def _metric_tile(before: Json, after: Json, name: str) -> Tile | None:
    values = [
        float(model["metric"][name]) for model in (before, after) if name in (model.get("metric") or {})
    ]
    if len(values) < 2:
        return None
    change = values[1] - values[0]
    words = [numbers.metric(name, value) for value in values]
    return Tile(f"test {name}", words[0], words[1], f"{change:+.4f}", change >= 0)


def _less_tile(label: str, before: float, after: float, words: Any, word: str) -> Tile | None:
    if not before:
        return None
    detail = f"{before / after:.2f} times {word}" if after and after < before else ""
    return Tile(label, words(before), words(after), numbers.per_cent(after / before), after < before, detail)


def _latency_tile(rows: Sequence[Json]) -> Tile | None:
    timed = [row for row in rows if row["latency_ms"] is not None]
    if len(timed) < 2 or timed[-1]["speedup"] is None:
        return None
    last = timed[-1]
    return Tile(
        "latency",
        numbers.milliseconds(timed[0]["latency_ms"]),
        numbers.milliseconds(last["latency_ms"]),
        numbers.speedup(last["speedup"]),
        last["speedup"] > 1,
        f"95 % interval {_interval(last)}",
    )


def _test_samples(run: Run) -> int | None:
    for step in run.steps:
        data = step["result"].get("data")
        if isinstance(data, Mapping):
            samples = (data.get("samples") or {}).get("test")
            return None if samples is None else int(samples)
    return None


def _of(left: Json | None, layer: Json, key: str) -> str:
    return f"{left[key] if left else 0} of {layer[key]}"


def _interval(row: Json) -> str:
    low, high = row["speedup_low"], row["speedup_high"]
    return "" if low is None or high is None else numbers.interval(low, high)


def _flow(options: Json) -> str:
    return ", ".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()
    )


def _words(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, (list, tuple)) else str(value)
