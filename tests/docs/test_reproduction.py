import importlib.util
import json
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def reproduce():
    spec = importlib.util.spec_from_file_location("reproduce", DOCS / "reproduce.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["reproduce"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["reproduce"]


def test_the_page_is_what_the_results_say(reproduce):
    assert (DOCS / "reproduction.md").read_text() == reproduce.page(*reproduce.stored())


def run(error, rows, columns, seed=0):
    def layers(r, c):
        return [
            {
                "name": name,
                "kind": "conv",
                "filters": a,
                "channels": 1,
                "columns": b,
                "macs_packed": a * b * 100,
            }
            for name, a, b in zip(("conv1", "conv2"), r, c, strict=True)
        ]

    def step(name, wrong, r, c):
        metrics = {"test": {"accuracy": 1 - wrong}}
        return {"id": name, "uses": "train", "seconds": 60.0, "metrics": metrics, "layers": layers(r, c)}

    steps = [step("baseline", 0.006, (20, 50), (25, 500)), step("row4", error, rows, columns)]
    recipe = "recipes/paper/lenet-shapes.yaml"
    host = {"cpu": "c", "torch": "t"}
    return {"recipe": recipe, "seed": seed, "note": "", "host": host, "date": "2026-11-23", "steps": steps}


def line(page, label):
    return next(text for text in page.splitlines() if text.startswith(f"| {label} |"))


def test_a_row_holds_where_error_and_every_layer_do(reproduce):
    page = reproduce.page({"lenet-shapes": [run(0.007, (2, 50), (21, 41))]}, [])
    assert line(page, "4") == "| 4 | 0.8 | 8.4-8.2 | 0.70 | 8.4-8.2 | yes |"
    page = reproduce.page({"lenet-shapes": [run(0.0081, (2, 50), (21, 41))]}, [])
    assert line(page, "4").endswith("| no |")
    page = reproduce.page({"lenet-shapes": [run(0.007, (2, 50), (22, 41))]}, [])
    assert line(page, "4") == "| 4 | 0.8 | 8.4-8.2 | 0.70 | 8.8-8.2 | no |"


def test_an_error_is_that_of_both_halves_of_the_test_images_where_none_was_judged_by(reproduce):
    one = run(0.007, (2, 50), (21, 41))
    step = one["steps"][1]
    step["metrics"]["validation"] = {"accuracy": 0.99}
    step["data"] = {"validation_from": "test", "samples": {"train": 9, "validation": 3, "test": 1}}
    step["with"] = {"keep": "last"}
    assert "| 0.93 |" in line(reproduce.page({"lenet-shapes": [one]}, []), "4")
    step["with"] = {}
    assert "| 0.70 |" in line(reproduce.page({"lenet-shapes": [one]}, []), "4")


def test_seeds_are_averaged_and_what_was_not_run_is_said(reproduce):
    runs = [run(0.006, (2, 50), (21, 41)), run(0.008, (2, 50), (21, 41), seed=1)]
    page = reproduce.page({"lenet-shapes": runs}, [])
    assert "| 0.70 ± 0.14 (2 seeds) |" in line(page, "4")
    assert line(page, "5") == "| 5 | 1 | 1.4-2.8 | not run |  |  |"


def target_step(name, target, drop, reached, **values):
    return {
        "id": name,
        "uses": "regularize",
        "seconds": 120.0,
        "epochs": 3,
        "with": {"target": target, "max_drop": drop},
        "reached": {**reached, "drop": 0.1},
        "metrics": {"test": {"accuracy": 0.99}},
        **values,
    }


def test_a_target_shows_what_it_asked_for_what_it_reached_and_the_measured_latency(reproduce):
    def goal(seed, reached, faster):
        sparse = target_step("half-latency-sparse", {"latency": 0.5}, 0.5, {"latency": reached})
        bench = {"id": "speed", "uses": "bench", "seconds": 9.0, "speedup": faster}
        return {**run(0, (1, 1), (1, 1), seed), "steps": [sparse, bench]}

    page = reproduce.page({"lenet-targets": [goal(0, 0.48, 2.0), goal(1, 0.5, 2.5)]}, [])
    (row,) = [text for text in page.splitlines() if "half-latency-sparse:" in text]
    assert "latency=0.5, max_drop=0.5 (2 seeds)" in row
    assert "| latency 0.490 ± 0.014, drop 0.100 ± 0.000 | 1.00 ± 0.00 | 0.450 ± 0.071 | 0 | 3 | 2.0 " in row


def test_a_missed_goal_shows_its_exit_code(reproduce):
    failure = "the target was not met"
    sparse = target_step("quarter-sparse", {"macs": 0.25}, 0.3, {"macs": 0.26}, failure=failure)
    bench = {"id": "quarter-speed", "uses": "bench", "seconds": 9.0, "speedup": 2.0}
    page = reproduce.page({"lenet-targets": [{**run(0, (1, 1), (1, 1)), "steps": [sparse, bench]}]}, [])
    assert "| 1.00 | 0.500 | 5 | 3 | 2.0 |" in page


def test_what_the_controller_costs_is_the_share_of_its_calls(reproduce):
    found = {"epochs": 12, "seconds": 200.0, "controller_seconds": {"a": 2.0, "b": 6.0}}
    cost = {"command": "c", "date": "2026-11-29", "host": {"cpu": "x"}, "cost": found}
    assert "| `c` | 12 | 200 | 8.0 | 4.0 | 2026-11-29 | x |" in reproduce.page({}, [], [cost])


def test_a_run_is_collected_from_its_records(reproduce, tmp_path):
    folder = tmp_path / "run" / "baseline"
    folder.mkdir(parents=True)
    shape = {"macs": 5, "layers": [{**run(0, (1, 1), (1, 1))["steps"][0]["layers"][0], "shape": [1, 1]}]}
    rows = [
        {"name": "baseline", "layer": None, "speedup": None},
        {"name": "quarter", "layer": "conv1", "speedup": 3.0},
        {"name": "quarter", "layer": None, "speedup": 2.0},
    ]
    result = {
        "metrics": {"test": {"accuracy": 0.9}},
        "epochs": 2,
        "shape": shape,
        "history": ["long"],
        "rows": rows,
    }
    record = {"id": "baseline", "uses": "train", "given": {"epochs": 2}, "seconds": 1.23, "result": result}
    (folder / "step.json").write_text(json.dumps(record))
    found = reproduce.collect(tmp_path / "run", "r.yaml", "a note")
    (step,) = found["steps"]
    assert step["seconds"] == 1.2
    assert step["with"] == {"epochs": 2}
    assert step["layers"][0]["columns"] == 25
    assert "shape" not in step["layers"][0]
    assert "history" not in step
    assert step["speedup"] == 2.0
