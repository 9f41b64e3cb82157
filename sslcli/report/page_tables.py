"""The figures of a page that stand in tables and tiles, as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sslcli.report import numbers
from sslcli.report.runs import Json, Run
from sslcli.report.timings import bases, compared, last_bench


@dataclass(frozen=True)
class Tile:
    """One number before and after.

    Attributes:
        label: what it counts.
        before: of the first model.
        after: of the smallest one.
        change: from the one to the other.
        good: whether the change is one; None where it has no side, or may be noise.
        details: further lines.
    """

    label: str
    before: str
    after: str
    change: str
    good: bool | None
    details: Sequence[str] = ()


@dataclass(frozen=True)
class Grid:
    """A table: its heads, and rows of text; the first ``left`` columns are words."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


def tiles(run: Run) -> list[Tile]:
    """Accuracy, MACs, parameters, file size and latency of the first and the smallest model."""
    if not run.models:
        return []
    before, after = run.models[0], run.smallest
    found = [
        _accuracy_tile(run) or _metric_tile(before, after, metric_name(run.models)),
        _macs_tile(before, after),
        _parameters_tile(before, after),
        _size_tile(before, after),
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
                *(
                    f"{numbers.count(model[key])} ({numbers.per_cent(model[key] / dense)})"
                    for key in ("macs", "macs_packed")
                ),
                f"{numbers.count(model['params'])}{' (ONNX)' if _is_onnx(model) else ''}",
                numbers.size(_saved_bytes(model)) if _saved_bytes(model) else "",
                _onnx(model),
                "" if model["latency_ms"] is None else numbers.milliseconds(model["latency_ms"]),
                "" if model["speedup"] is None else numbers.speedup(model["speedup"]),
                _interval(model),
            ]
        )
    heads = (
        "model", f"test {name}", "MACs executed", "MACs packed", "parameters", "saved model", "ONNX file",
        "latency", "speedup", "95 % interval",
    )  # fmt: skip
    return Grid(heads, rows)


def side_by_side(runs: Sequence[Run]) -> Grid:
    """The first and the smallest model of each run, one table for all."""
    rows = []
    for run in runs:
        name = metric_name(run.models)
        ends = [run.models[0], run.smallest] if run.models else []
        for row in ends[: len(run.models)]:
            rows.append(
                [
                    run.name,
                    str(row["id"]),
                    " ".join(filter(None, [name if name != "error" else "", _quality(row, name)])),
                    numbers.count(row["macs"]),
                    "" if row["latency_ms"] is None else numbers.milliseconds(row["latency_ms"]),
                    "" if row["speedup"] is None else numbers.speedup(row["speedup"]),
                ]
            )
    return Grid(("run", "model", "test error", "MACs executed", "latency", "speedup"), rows, left=2)


def layers(run: Run) -> Grid | None:
    """Each layer of the first model with what the smallest kept of it, and its time; None without both."""
    if len(run.models) < 2:
        return None
    after = {layer["name"]: layer for layer in run.smallest["layers"]}
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
        "layer", "kind", "filters", "channels", "columns", "MACs", "packed left", "dense time", "time",
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


def _control(run: Run) -> Json | None:
    """The best tested model between the first and the last that was only trained, and never made sparse."""
    dense = {step["id"] for step in run.steps if step["uses"] == "train" and not step["needs"]}
    for step in run.steps:  # makers come before those who read their models
        if step["uses"] == "train" and dense.issuperset(step["needs"]):
            dense.add(step["id"])
    others = [
        row
        for row in run.models[1:-1]
        if row["id"] in dense and row["error"] is not None and row["macs_packed"] == run.models[0]["macs"]
    ]
    return min(others, key=lambda row: float(row["error"]), default=None)


def _accuracy_tile(run: Run) -> Tile | None:
    """Accuracies with their intervals; good is more than noise above the first model and the control."""
    before, after, control, samples = run.models[0], run.smallest, _control(run), _test_samples(run)
    if before["error"] is None or after["error"] is None:
        return None
    good = _side(before, after, samples)
    details = []
    if samples:
        details.append(f"95 % intervals {_span(before, samples)} before, {_span(after, samples)} after")
        details.append(f"{samples} samples")
        if good is None:
            details.append("the intervals overlap: the change may be noise")
    if control is not None:
        details.append(_control_line(control, after, samples))
        if good and not _side(control, after, samples):
            good = None
    return Tile("test accuracy", _accuracy(before), _accuracy(after), _points(before, after), good, details)


def _control_line(control: Json, after: Json, samples: int | None) -> str:
    name = "control" if control["id"] == "control" else f"control {control['id']}"
    interval = f" (95 % interval {_span(control, samples)})" if samples else ""
    return (
        f"{name}, trained without sparsity: {_accuracy(control)}{interval}; "
        f"{after['id']} is {_points(control, after)} from it"
    )


def _side(before: Json, after: Json, samples: int | None) -> bool | None:
    """Whether an accuracy rose (True) or fell (False) by more than noise: the intervals do not overlap."""
    if not samples:
        return None
    was, now = (wilson((1 - row["error"]) * samples, samples) for row in (before, after))
    return True if now[0] > was[1] else False if now[1] < was[0] else None


def _accuracy(row: Json) -> str:
    return f"{100 * (1 - row['error']):.2f} %"


def _points(before: Json, after: Json) -> str:
    return f"{100 * (before['error'] - after['error']):+.2f} points"


def _span(row: Json, samples: int) -> str:
    low, high = wilson((1 - row["error"]) * samples, samples)
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def metric_name(models: Sequence[Json]) -> str:
    """What the page says about quality: the error of classifiers, else the task's own metric."""
    if all(model["error"] is None for model in models):
        return next((name for model in models for name in model.get("metric") or {}), "error")
    return "error"


def _quality(model: Json, name: str) -> str:
    """The test figure, and the file that it is of where that is not the model's own."""
    value = model["error"] if name == "error" else (model.get("metric") or {}).get(name)
    if value is None:
        return ""
    tested = f" ({model['tested']})" if model.get("tested") else ""
    return f"{numbers.metric(name, value)}{tested}"


def _saved_bytes(model: Json) -> int:
    """The size of the saved model; 0 where the model is known as ONNX alone."""
    return 0 if _is_onnx(model) else int(model["size_bytes"])


def _is_onnx(model: Json) -> bool:
    """Whether the model is known as ONNX alone, where the parameters of norms are folded into the layers."""
    return bool(model.get("onnx") == model["id"])


def _onnx(model: Json) -> str:
    """The size of the model's ONNX file, and which file that is."""
    if not model.get("onnx_bytes"):
        return ""
    name = "" if model["onnx"] == model["id"] else f" ({model['onnx']})"
    return f"{numbers.size(model['onnx_bytes'])}{name}"


def _metric_tile(before: Json, after: Json, name: str) -> Tile | None:
    values = [
        float(model["metric"][name]) for model in (before, after) if name in (model.get("metric") or {})
    ]
    if len(values) < 2:
        return None
    change = values[1] - values[0]
    words = [numbers.metric(name, value) for value in values]
    return Tile(f"test {name}", words[0], words[1], f"{change:+.4f}", None)


def _macs_tile(before: Json, after: Json) -> Tile | None:
    """What is executed; what a lowering could still leave out of it as a further line."""
    tile = _less_tile("MACs executed", before["macs"], after["macs"], numbers.count, "fewer")
    packed = after["macs_packed"]
    if tile is None or not packed or packed == after["macs"]:
        return tile
    words = f"packed {numbers.count(packed)}, {before['macs'] / packed:.2f} times fewer"
    meaning = "live rows times live columns of each layer, zeros left out"
    return replace(tile, details=[*tile.details, f"{words}: {meaning}"])


def _parameters_tile(before: Json, after: Json) -> Tile | None:
    """Parameters, where both models are counted in one format."""
    if _is_onnx(before) != _is_onnx(after):
        return None
    return _less_tile("parameters", before["params"], after["params"], numbers.count, "fewer")


def _size_tile(before: Json, after: Json) -> Tile | None:
    """File sizes, each format with itself."""
    saved = _saved_bytes(before), _saved_bytes(after)
    exported = before.get("onnx_bytes") or 0, after.get("onnx_bytes") or 0
    tile = _less_tile("saved model", *saved, numbers.size, "smaller") if all(saved) else None
    if not all(exported):
        return tile
    also = [f"saved model {tile.after}, was {tile.before}"] if tile else []
    found = _less_tile("ONNX file", *exported, numbers.size, "smaller")
    return found and replace(found, details=[*found.details, *also])


def _less_tile(label: str, before: float, after: float, words: Any, word: str) -> Tile | None:
    if not before:
        return None
    details = [f"{before / after:.2f} times {word}"] if after and after < before else []
    good = None if after == before else after < before
    return Tile(label, words(before), words(after), numbers.per_cent(after / before), good, details)


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
        _faster(last),
        [f"95 % interval {_interval(last)}"],
    )


def _faster(row: Json) -> bool | None:
    """Whether a speedup is one by more than noise; None where 1 is within its interval."""
    low, high = row["speedup_low"], row["speedup_high"]
    if low is None or high is None:
        return None
    return True if low > 1 else False if high < 1 else None


def _test_samples(run: Run) -> int | None:
    for step in run.steps:
        data = step["result"].get("data")
        if isinstance(data, Mapping):
            samples = (data.get("samples") or {}).get("test")
            return None if samples is None else int(samples)
    tested = [step["result"] for step in run.steps if step["result"].get("split") == "test"]
    counts = {int(result["samples"]) for result in tested if result.get("samples")}
    return counts.pop() if len(counts) == 1 else None


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
