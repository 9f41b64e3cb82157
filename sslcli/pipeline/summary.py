"""The closing table of a run: every model that it made, with what is left, its error and its speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sslcli.options.steps import STEPS
from sslcli.pipeline.results import ModelRow, StepOutcome
from sslcli.recipe.model import Recipe, Step


def model_rows(recipe: Recipe, folder: Path, outcomes: Sequence[StepOutcome]) -> list[ModelRow]:
    """One row for each step that made a model, the start of the chain first.

    Latencies are those of the benched ONNX files, told of the model that was exported.
    """
    results = {outcome.id: outcome.result for outcome in outcomes}
    timed = _timed(recipe, results)
    return [
        _row(recipe, recipe.step(outcome.id), results, timed, Path(outcome.outputs[0]))
        for outcome in outcomes
        if STEPS[outcome.uses].product == "model"
    ]


def _row(
    recipe: Recipe,
    step: Step,
    results: Mapping[str, Mapping[str, Any]],
    timed: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> ModelRow:
    result = results[step.id]
    shape = result.get("shape") or {}
    times = timed.get(step.id, {})
    accuracy = (result.get("metrics") or {}).get("test", {}).get("accuracy")
    return ModelRow(
        id=step.id,
        error=None if accuracy is None else 1 - accuracy,
        layers=list(shape.get("layers", [])),
        macs=int(shape.get("macs", 0)),
        macs_packed=int(shape.get("macs_packed", 0)),
        params=int(shape.get("params", 0)),
        size_bytes=path.stat().st_size if path.is_file() else 0,
        latency_ms=times.get("median_ms"),
        speedup=times.get("speedup"),
        speedup_low=times.get("speedup_low"),
        speedup_high=times.get("speedup_high"),
    )


def _timed(recipe: Recipe, results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Times by the step whose model was timed, directly or as its ONNX export."""
    times: dict[str, dict[str, Any]] = {}
    for step in recipe.steps:
        if step.uses != "bench":
            continue
        for row in results.get(step.id, {}).get("rows", []):
            times[_model_step(recipe, row["name"])] = row
    return times


def _model_step(recipe: Recipe, identifier: str) -> str:
    """Back from an exported file to the step that made the model."""
    known = {step.id: step for step in recipe.steps}
    while identifier in known and STEPS[known[identifier].uses].product == "onnx" and known[identifier].needs:
        identifier = known[identifier].needs[0]
    return identifier
