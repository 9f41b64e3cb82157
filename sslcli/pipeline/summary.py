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
    with it. Latencies are those of the benched ONNX files, told of the model that was exported; errors on the
    test set are those that a step reports of its own model, or an evaluate step of it.
    """
    results = {outcome.id: outcome.result for outcome in outcomes}
    timed, tested = _timed(recipe, results), _tested(recipe, results)
    rows = []
    for outcome in outcomes:
        step = recipe.step(outcome.id)
        product = STEPS[step.uses].product
        if product == "model" or (product == "onnx" and not step.needs):
            shape = results[step.id].get("shape") or {}
            rows.append(_row(step.id, shape, tested.get(step.id, {}), timed.get(step.id, {}), outcome))
    return rows


def _row(
    identifier: str,
    shape: Mapping[str, Any],
    tested: Mapping[str, float],
    times: Mapping[str, Any],
    outcome: StepOutcome,
) -> ModelRow:
    path = Path(outcome.outputs[0])
    accuracy = tested.get("accuracy")
    return ModelRow(
        id=identifier,
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
        metric={name: value for name, value in tested.items() if name not in ("accuracy", "loss")},
    )


def _tested(recipe: Recipe, results: Results) -> dict[str, dict[str, float]]:
    """Metrics on the test set by the step whose model they are of."""
    found: dict[str, dict[str, float]] = {}
    for step in recipe.steps:
        result = results.get(step.id, {})
        own = (result.get("metrics") or {}).get("test") if step.uses != "evaluate" else None
        if own:
            found[step.id] = dict(own)
        elif step.uses == "evaluate" and step.needs and result.get("split") == "test":
            found.setdefault(_model_step(recipe, step.needs[0]), dict(result["metrics"]))
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
    while identifier in known and STEPS[known[identifier].uses].product == "onnx" and known[identifier].needs:
        identifier = known[identifier].needs[0]
    return identifier
