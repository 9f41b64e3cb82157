"""The closing table where nothing was trained before the first export."""

import pytest

from sslcli.pipeline.results import StepOutcome
from sslcli.pipeline.summary import model_rows
from sslcli.recipe import load_recipe

RECIPE = """\
version: 1
model: {arch: lenet, weights: w.pth}
data: {name: mnist-5k}
steps:
  - {id: dense, uses: export, with: {lower: dense}}
  - {id: before, uses: evaluate}
  - {id: sparse, uses: regularize, needs: [], with: {structures: {filter: 0.1}}}
  - {id: small, uses: prune}
  - {id: onnx, uses: export}
  - {id: after, uses: evaluate}
  - {id: speed, uses: bench, needs: onnx, with: {baseline: dense}}
"""


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    recipe = load_recipe(path)
    results = {
        "dense": {"shape": {"macs": 9, "params": 18, "layers": [{"name": "conv"}]}},
        "onnx": {"shape": {"macs": 1, "layers": []}},
        "before": {"split": "test", "metrics": {"accuracy": 0.9, "loss": 1.0}},
        "sparse": {"metrics": {"test": {"iou": 0.5, "loss": 0.1}}, "shape": {"macs": 5, "layers": []}},
        "small": {"metrics": {}, "shape": {"macs": 4, "layers": []}},
        "after": {"split": "test", "metrics": {"accuracy": 0.75}},
        "speed": {
            "rows": [{"name": "dense", "median_ms": 2.0}, {"name": "onnx", "median_ms": 1.0, "speedup": 2.0}]
        },
    }
    outcomes = [
        StepOutcome(
            step.id, step.uses, list(step.needs), "run", 1.0,
            [str(tmp_path / step.id / ("model.onnx" if step.uses == "export" else "model.pt2"))],
            result=results.get(step.id, {}),
        )
        for step in recipe.steps
    ]  # fmt: skip
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"12345")
    return {row.id: row for row in model_rows(recipe, tmp_path, outcomes)}


def test_the_export_of_the_recipes_own_model_is_the_first_row(rows):
    assert list(rows) == ["dense", "sparse", "small"]
    dense = rows["dense"]
    assert (dense.macs, dense.params, dense.latency_ms) == (9, 18, 2.0)
    assert dense.layers == [{"name": "conv"}]


def test_errors_come_from_evaluate_steps_where_the_model_reports_none(rows):
    assert rows["dense"].error == pytest.approx(0.1)
    assert rows["small"].error == pytest.approx(0.25)


def test_the_metric_of_another_task_is_kept_by_its_name(rows):
    assert rows["sparse"].error is None
    assert rows["sparse"].metric == {"iou": 0.5}


def test_a_row_names_its_onnx_file_and_the_file_that_was_tested(rows, tmp_path):
    assert (rows["dense"].onnx, rows["dense"].tested) == ("dense", None)
    assert (rows["small"].onnx, rows["small"].onnx_bytes) == ("onnx", 5)
    assert rows["small"].tested == "onnx"
    assert (rows["sparse"].onnx, rows["sparse"].onnx_bytes) == (None, None)


def test_times_are_told_of_the_model_that_was_exported(rows):
    assert (rows["small"].latency_ms, rows["small"].speedup) == (1.0, 2.0)
