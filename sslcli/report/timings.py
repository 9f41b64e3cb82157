"""The layer timings of a bench, whether it just ran or its JSON is read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# one ``BenchRow`` as plain values
Row = Mapping[str, Any]


def by_setting(layers: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows by provider, in the order measured."""
    found: dict[str, list[Row]] = {}
    for row in layers:
        found.setdefault(str(row["provider"]), []).append(row)
    return found


def subjects(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """(model, kind) of everything that was timed against the base, in the order measured."""
    return list(dict.fromkeys((row["name"], row["kind"]) for row in rows if row["speedup"] is not None))


def bases(rows: Iterable[Row]) -> dict[str, Row]:
    """By layer, the row of the base model."""
    return {row["layer"]: row for row in rows if row["speedup"] is None and row["kind"] == "onnx"}


def compared(rows: Iterable[Row], name: str | None = None) -> dict[str, Row]:
    """By layer, the row of one ONNX model against the base; of the last model where none is named."""
    rows = [row for row in rows if row["speedup"] is not None and row["kind"] == "onnx"]
    if rows and name is None:
        name = rows[-1]["name"]
    return {row["layer"]: row for row in rows if row["name"] == name}


def last_bench(steps: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The layer rows of the last bench step among a run's steps, of its first provider."""
    for step in reversed(list(steps)):
        if step["uses"] == "bench":
            for rows in by_setting(step["result"].get("layers") or ()).values():
                return rows
    return []
