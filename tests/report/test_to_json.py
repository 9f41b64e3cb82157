import json
from pathlib import Path

import pytest

from sslcli.errors import GateError
from sslcli.pipeline import results
from sslcli.report import to_json


def test_numbers_that_json_cannot_say_are_null():
    row = results.BenchRow("a", None, "cpu", "onnx", float("nan"), float("inf"), 1.0, None, None, None)
    made = to_json(results.BenchResult([row], [], {}, {}))
    assert made["schema"] == "sslcli/bench/1"
    assert made["rows"][0]["median_ms"] is None
    assert made["rows"][0]["p90_ms"] is None
    json.dumps(made, allow_nan=False)


def test_evaluate_states_its_metrics_at_the_top():
    made = to_json(results.EvaluateResult("a.pt2", "cifar10", "test", 10_000, {"accuracy": 0.9173}, 1.0))
    assert (made["accuracy"], made["metrics"]["accuracy"]) == (0.9173, 0.9173)


@pytest.mark.parametrize("command", ["train", "regularize"])
def test_training_results_carry_their_command_in_the_schema(command):
    result = results.TrainingResult(command, "a", "b", {}, 1, 1, 1.0, {}, {})
    assert to_json(result)["schema"] == f"sslcli/{command}/1"


def test_a_failure_is_told_with_its_exit_code():
    made = to_json(results.BenchResult([], [], {}, {}, failure=GateError("too slow", "make it faster")))
    assert made["failure"] == {"exit_code": 7, "what": "too slow", "hint": "make it faster"}


def test_paths_and_tuples_are_plain():
    made = to_json(results.RunResult("r.yaml", "runs/r", False, 1.0, [], [], None, None))
    assert made["steps"] == []
    with pytest.raises(TypeError, match="which JSON has no form for"):
        to_json(results.RecipeText("a", object()))  # type: ignore[arg-type]
    assert to_json(results.RecipeText("a", Path("b/c")))["text"] == "b/c"  # type: ignore[arg-type]
