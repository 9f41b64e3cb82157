"""Results of single commands in one folder, read as a run."""

import json
import shutil

import pytest

from sslcli.errors import InputError
from sslcli.report import page_tables
from sslcli.report.gathered import gathered
from sslcli.report.html import write_report
from sslcli.report.runs import read_run

SHAPE = {"macs": 1000, "macs_packed": 1000, "params": 50, "layers": []}
SMALL = {**SHAPE, "macs": 400, "macs_packed": 300}
RESULTS = {
    # in no order that would help
    "a-speed": {
        "schema": "sslcli/bench/1",
        "models": {"dense.onnx": "build/dense.onnx", "small.onnx": "build/small.onnx"},
        "rows": [
            {"name": "dense.onnx", "median_ms": 2.0, "speedup": None},
            {"name": "small.onnx", "median_ms": 1.0, "speedup": 2.0, "speedup_low": 1.9, "speedup_high": 2.1},
        ],
        "layers": [],
        "comparison": {},
        "failure": {"exit_code": 7, "what": "too slow", "hint": "look"},
    },
    "accuracy": {
        "schema": "sslcli/evaluate/1", "source": "build/small.onnx", "split": "test",
        "metrics": {"accuracy": 0.75}, "seconds": 1.0,
    },
    "dense.onnx": {
        "schema": "sslcli/export/1", "source": "w.pth", "output": "build/dense.onnx", "shape": SHAPE,
        "size_bytes": 9,
    },
    "small.onnx": {
        "schema": "sslcli/export/1", "source": "build/small.pt2", "output": "build/small.onnx",
        "shape": SMALL, "size_bytes": 5,
    },
    "small.pt2": {
        "schema": "sslcli/prune/1", "source": "build/sparse.pt2", "output": "build/small.pt2",
        "shape": SMALL, "size_bytes": 6, "metrics": {},
    },
    "sparse.pt2": {
        "schema": "sslcli/regularize/1", "source": "w.pth", "output": "build/sparse.pt2", "seconds": 7.0,
        "shape": SHAPE, "metrics": {"test": {"accuracy": 0.5, "loss": 1.0}},
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "build"
    place.mkdir()
    for name, result in RESULTS.items():
        (place / f"{name}.json").write_text(json.dumps(result))
    (place / "other.json").write_text('{"schema": "somebody/else"}')
    (place / "broken.json").write_text("{")
    return place


def test_steps_come_in_the_order_of_the_work(folder):
    steps = gathered(folder)["steps"]
    assert [step["id"] for step in steps] == [
        "sparse-pt2", "dense-onnx", "small-pt2", "small-onnx", "accuracy", "a-speed"
    ]  # fmt: skip
    needs = {step["id"]: step["needs"] for step in steps}
    assert needs["small-onnx"] == ["small-pt2"]
    assert needs["a-speed"] == ["dense-onnx", "small-onnx"]


def test_the_start_model_is_the_first_row_and_each_row_has_what_others_measured(folder):
    rows = {row["id"]: row for row in gathered(folder)["models"]}
    assert list(rows) == ["dense-onnx", "sparse-pt2", "small-pt2"]
    assert rows["dense-onnx"]["latency_ms"] == 2.0
    assert (rows["small-pt2"]["speedup"], rows["small-pt2"]["error"]) == (2.0, 0.25)
    assert rows["sparse-pt2"]["error"] == 0.5


MADE = {
    "command": "sslcli prune build/sparse.pt2 -o build/small.pt2 --seed 4", "options": {"seed": 4}, "seed": 4,
    "created": "2026-01-02T03:04:05+00:00",
}  # fmt: skip


def test_onnx_is_compared_with_onnx_and_each_file_is_named(folder):
    run = read_run(folder)
    grid = page_tables.models(run)
    cells = {row[0]: dict(zip(grid.heads, row, strict=True)) for row in grid.rows}
    assert (cells["dense-onnx"]["saved model"], cells["dense-onnx"]["ONNX file"]) == ("", "9 B")
    assert (cells["small-pt2"]["saved model"], cells["small-pt2"]["ONNX file"]) == ("6 B", "5 B (small-onnx)")
    assert cells["dense-onnx"]["parameters"].endswith(" (ONNX)")
    assert "ONNX" not in cells["small-pt2"]["parameters"]
    assert cells["small-pt2"]["test error"] == "25.00 % (small-onnx)"
    tile = next(tile for tile in page_tables.tiles(run) if tile.label == "ONNX file")
    assert (tile.before, tile.after) == ("9 B", "5 B")
    assert "saved model" not in str(page_tables.tiles(run))


def test_the_size_of_a_file_beside_the_results_is_known_wherever_the_report_is_made(folder):
    (folder / "sparse.pt2").write_bytes(bytes(123))
    rows = {row["id"]: row for row in gathered(folder)["models"]}
    assert rows["sparse-pt2"]["size_bytes"] == 123


def test_a_saved_model_is_never_compared_with_an_onnx_file(folder):
    (folder / "small.onnx.json").unlink()
    assert not {"ONNX file", "saved model", "parameters"} & {
        tile.label for tile in page_tables.tiles(read_run(folder))
    }


def test_of_two_exports_the_one_that_was_timed_is_named(folder):
    other = {**RESULTS["small.onnx"], "output": "build/z-other.onnx", "size_bytes": 77}
    (folder / "z-other.onnx.json").write_text(json.dumps(other))
    rows = {row["id"]: row for row in gathered(folder)["models"]}
    assert (rows["small-pt2"]["onnx"], rows["small-pt2"]["onnx_bytes"]) == ("small-onnx", 5)


def test_the_network_is_drawn_from_the_saved_model_that_is_there(folder, saved_model, tmp_path):
    (folder / "dense.onnx").write_bytes(b"an ONNX file")
    shutil.copy(saved_model, folder / "small.pt2")
    write_report(folder, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "No picture of the network" not in text
    assert 'class="network"' in text


def test_a_saved_model_that_cannot_be_read_leaves_the_next_one(folder, saved_model, tmp_path):
    (folder / "sparse.pt2").write_bytes(b"nothing")
    shutil.copy(saved_model, folder / "small.pt2")
    write_report(folder, tmp_path / "report.html")
    assert 'class="network"' in (tmp_path / "report.html").read_text()


def test_the_page_of_single_results_names_their_commands_dates_and_seeds(folder, tmp_path):
    (folder / "small.pt2.json").write_text(json.dumps({**RESULTS["small.pt2"], "made": MADE}))
    speed = {**RESULTS["a-speed"], "comparison": {"created": "2026-01-02T04:00:00+00:00"}}
    (folder / "a-speed.json").write_text(json.dumps(speed))
    run = read_run(folder)
    assert run.commands == {"small-pt2": MADE["command"]}
    assert run.given["small-pt2"] == {"seed": 4}
    assert page_tables.origin(run) == "Made 2026-01-02 03:04:05 to 2026-01-02 04:00:00 UTC, seed 4"
    write_report(folder, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert MADE["command"] in text
    assert ">seed: 4</td>" in text
    assert page_tables.origin(run) in text


def test_results_of_older_versions_have_a_page_without_dates(folder):
    run = read_run(folder)
    assert (run.command, run.commands, page_tables.origin(run)) == ("", {}, "")


def test_a_failed_gate_is_on_the_page(folder, tmp_path):
    write_report(folder, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "did not reach its goal: too slow" in text
    assert "build" in text


def test_the_course_beside_an_output_is_found(folder):
    (folder / "sparse.metrics.jsonl").write_text('{"kind": "epoch", "epoch": 1}\n')
    assert read_run(folder).courses["sparse-pt2"] == [{"kind": "epoch", "epoch": 1}]


def test_a_folder_without_results_is_no_run(tmp_path):
    assert gathered(tmp_path) is None
    with pytest.raises(InputError, match="no finished run"):
        read_run(tmp_path)
