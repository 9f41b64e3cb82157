"""The closing table of a run: every model that it made, with what is left, its error and its speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sslcli.options.steps import STEPS
from sslcli.pipeline.results import ModelRow, StepOutcome
from sslcli.recipe.model import Recipe, Step

Results = Mapping[str, Mapping[str, Any]]


def model_rows(recipe: Recipe, folder: Path, outcomes: Sequence[StepOutcome]) -> list[ModelRow]:
    """One row for each step that made a model, the start of the chain first.

    An export of the recipe's own model has a row too: no step made that model, and all others are compared
    with it. Latencies are those of the benched ONNX files, told of the model that was exported, whose row
    names the file; errors on the test set are those that a step reports of its own model, or an evaluate step
    of it.
    """
    results = {outcome.id: outcome.result for outcome in outcomes}
    timed, tested, files = _timed(recipe, results), _tested(recipe, results), _exported(recipe, outcomes)
    rows = []
    for outcome in outcomes:
        step = recipe.step(outcome.id)
        product = STEPS[step.uses].product
        if outcome.state == "failed":  # a missed target: what was kept is not the step's model
            continue
        if product == "model" or (product == "onnx" and not step.inputs):
            shape = results[step.id].get("shape") or {}
            tests, times = tested.get(step.id, ({}, None)), timed.get(step.id, {})
            rows.append(_row(step.id, shape, tests, times, outcome, files.get(step.id)))
    return rows


def _row(
    identifier: str,
    shape: Mapping[str, Any],
    tests: tuple[Mapping[str, float], str | None],
    times: Mapping[str, Any],
    outcome: StepOutcome,
    exported: StepOutcome | None,
) -> ModelRow:
    tested, tested_as = tests
    accuracy = tested.get("accuracy")
    return ModelRow(
        id=identifier,
        error=None if accuracy is None else 1 - accuracy,
        layers=list(shape.get("layers", [])),
        macs=int(shape.get("macs", 0)),
        macs_packed=int(shape.get("macs_packed", 0)),
        params=int(shape.get("params", 0)),
        size_bytes=_size(outcome),
        latency_ms=times.get("median_ms"),
        speedup=times.get("speedup"),
        speedup_low=times.get("speedup_low"),
        speedup_high=times.get("speedup_high"),
        metric={name: value for name, value in tested.items() if name not in ("accuracy", "loss")},
        onnx=None if exported is None else exported.id,
        onnx_bytes=None if exported is None else _size(exported),
        tested=tested_as if tested_as != identifier else None,
    )


def _size(outcome: StepOutcome) -> int:
    path = Path(outcome.outputs[0])
    return path.stat().st_size if path.is_file() else 0


def _exported(recipe: Recipe, outcomes: Sequence[StepOutcome]) -> dict[str, StepOutcome]:
    """By the step that made a model, the export of it that was timed; else the last one."""
    timed = {
        row["name"]
        for outcome in outcomes
        if outcome.uses == "bench"
        for row in outcome.result.get("rows", [])
    }
    exports = [outcome for outcome in outcomes if STEPS[outcome.uses].product == "onnx"]
    exports.sort(key=lambda outcome: outcome.id in timed)
    return {_model_step(recipe, outcome.id): outcome for outcome in exports}


def _tested(recipe: Recipe, results: Results) -> dict[str, tuple[dict[str, float], str | None]]:
    """Metrics on the test set by the step whose model they are of, and the step whose file was measured."""
    found: dict[str, tuple[dict[str, float], str | None]] = {}
    for step in recipe.steps:
        result = results.get(step.id, {})
        own = (result.get("metrics") or {}).get("test") if step.uses != "evaluate" else None
        if own:
            found[step.id] = dict(own), None
        elif step.uses == "evaluate" and step.inputs and result.get("split") == "test":
            measured = step.inputs[0]
            found.setdefault(_model_step(recipe, measured), (dict(result["metrics"]), measured))
    return found


def _timed(recipe: Recipe, results: Results) -> dict[str, dict[str, Any]]:
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
    known: dict[str, Step] = {step.id: step for step in recipe.steps}
    while (step := known.get(identifier)) and STEPS[step.uses].product == "onnx" and step.inputs:
        identifier = step.inputs[0]
    return identifier
