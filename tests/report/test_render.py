import dataclasses
import io
import re

import pytest
from rich.console import Console

from sslcli.errors import GateError
from sslcli.pipeline import results
from sslcli.report import render


def pruned(name, filters, why):
    counts = {"macs_before": 1_600_000, "macs_after": 150_000, "macs_packed": 130_000}
    return {"name": name, "kind": "conv", "filters": filters, "columns": [60, 500], **counts, "why": why}


def lowered(layer, choice):
    timed = {"median_ms": 0.02, "speedup": 5.0, "low": 4.8, "high": 5.2}
    refused = {"slices": "the kernel is too large"}
    return {"layer": layer, "live": 0.0812, "choice": choice, "timings": {"taps": timed}, "refused": refused,
            "note": None}  # fmt: skip


TRAINING = results.TrainingResult(
    command="regularize",
    source="dense.pt2",
    output="sparse.pt2",
    data={"name": "mnist"},
    epochs=20,
    steps=1140,
    seconds=75.2,
    before={"accuracy": 0.98, "loss": 0.07},
    metrics={"validation": {"accuracy": 0.975, "loss": 0.05}, "test": {"accuracy": 0.97}},
    zero_groups={"filter": [12, 70], "shape": [0, 525]},
    strengths={"filter": 0.005},
    left={"macs": 0.342},
)
PRUNE = results.PruneResult(
    source="sparse.pt2",
    output="small.pt2",
    plan="small.plan.json",
    macs_before=2_288_000,
    macs_after=372_000,
    macs_packed=340_000,
    params_before=431_000,
    params_after=160_000,
    size_bytes=640_000,
    max_abs_error=2.4e-7,
    max_rel_error=1e-7,
    reloaded_abs_error=0.0,
    layers=[
        pruned("features.block1.0.conv2+features.block1.1.conv2", [5, 20], "its output is the model's"),
        pruned("fc", [10, 10], "its output is the model's"),
    ],
    unknown=["aten.frobnicate in head"],
    metrics={"validation": {"accuracy": 0.975, "loss": 0.05}},
)
OTHERS = [
    TRAINING,
    PRUNE,
    results.ExportResult(
        "small.pt2", "small.onnx", 640_000, "auto", 1e-6, 1e-7,
        [lowered("conv1", "dense"), lowered("conv2", "taps")], {"value": 2.5, "low": 2.4, "high": 2.6}, True,
    ),
    results.InspectResult(
        "small.pt2", 372_000, 340_000, 160_000,
        [{"name": "layer1.0.conv1", "kind": "conv", "shape": [512, 512, 3, 3], "filters": [19, 512],
          "channels": [512, 512], "columns": [4000, 4608], "macs": 1_600_000, "why": "x" * 100}],
        {"left if pruned": {"macs": 300_000, "params": 100_000}, "unknown": ["aten.frobnicate in head"],
         "groups": [{"structure": "filter", "label": "conv1+conv2", "count": 20, "zero": 3,
                     "rms": [0.000123, *(0.01 * tenth for tenth in range(1, 11))]},
                    {"structure": "shape", "label": "conv1", "count": 4, "zero": 4, "rms": []}],
         "notes": ["the class could not be rebuilt"],
         "record": {"arch": "lenet", "metrics": {"test accuracy": 0.99}, "mean": [0.1307],
                    "provenance": [{"command": "train", "options": {"epochs": 10}}]}},
    ),
    results.EvaluateResult("a.pt2", "cifar10", "test", 10_000, {"accuracy": 0.9173, "loss": 0.4}, 12.3),
    results.ApplyPlanResult("plan.json", "lenet", "small.safetensors", 160_000, 1e-7),
    results.Planned("prune", "a.pt2", "b.pt2", True, {"threshold": 0.0, "target": {}}),
    results.Diagnosis(
        [results.Finding("torch", "ok", "2.13.0"), results.Finding("timm", "notice", "pip install timm")]
    ),
    results.RecipeText("r.yaml", "a [bold] word that is no markup"),
]  # fmt: skip


RED, GREEN = r"\x1b\[31m *", r"\x1b\[32m *"


def printed(result, colour=False):
    stream = io.StringIO()
    render(Console(file=stream, width=80, highlight=False, force_terminal=colour), result)
    return stream.getvalue()


@pytest.mark.parametrize("result", OTHERS, ids=lambda result: type(result).__name__)
def test_every_result_fits_80_columns_and_is_plain_off_a_terminal(result):
    text = printed(result)
    assert text.strip()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text


def test_the_tables_of_bench_and_run_fit_too(bench_result, run_result):
    for result in (bench_result, run_result):
        assert max(len(line) for line in printed(result).splitlines()) <= 80


def test_training_tells_before_after_and_what_is_zero():
    text = printed(TRAINING)
    assert re.search(r"validation accuracy +98.00 % +97.50 % +-0.50 points", text)
    assert "12 of 70" in text
    assert "MACs left if pruned" in text
    assert "20 epochs in 1m 15s -> sparse.pt2" in text


def test_a_loss_of_accuracy_is_red_and_a_gain_green():
    text = printed(TRAINING, colour=True)
    assert re.search(RED + "-0.50 points", text)
    assert re.search(GREEN + "-0.0200", text)  # the loss fell


def test_prune_shows_what_is_left_and_that_it_was_verified():
    text = printed(PRUNE)
    assert "2.29 M" in text
    assert re.search(r"^fc +10 +60/500 +1.6 M +150 k +130 k$", text, flags=re.MULTILINE)
    assert "16.3 %" in text
    assert "verified: largest difference 2.4e-07 (relative 1.0e-07)" in text


def test_what_stays_whole_is_told_once_a_reason():
    text = " ".join(printed(PRUNE).split())
    assert "features.block1.0.conv2+features.block1.1.conv2, fc: its output is the model's" in text
    assert "an op that no rule knows: aten.frobnicate in head" in text


def test_export_shows_choices_and_what_was_timed():
    text = printed(OTHERS[2])
    assert re.search(r"^conv2 +8.12 % +taps +5.00x +4.80-5.20$", text, flags=re.MULTILINE)
    assert re.search(r"^conv1 +8.12 % +dense *$", text, flags=re.MULTILINE)
    assert "whole model 2.50x as fast as dense (2.40-2.60)" in text
    assert "slices: the kernel is too large" in text


def test_inspect_shows_layers_groups_and_the_record():
    text = printed(OTHERS[3])
    assert re.search(r"512x512x3x3 +19/512 +512 +4000/4608 +1.6 M", text)
    assert re.search(r"filter +conv1\+conv2 +3 +20", text)
    assert "pruning now would leave 300 k MACs" in text
    assert "made by train: epochs 10" in text
    assert "metrics: test accuracy 0.99" in text


def test_markup_in_data_is_text():
    assert "a [bold] word" in printed(OTHERS[-1])


def test_bench_shows_layers_with_their_limits_and_notes(bench_result):
    lines = printed(bench_result).splitlines()
    assert "layers of small on cpu" in lines
    [conv2] = [line for line in lines if line.startswith("conv2") and "5.00x" in line]
    assert conv2.split() == ["conv2", "0.1000", "0.0200", "5.00x", "4.85-5.15", "12.20x"]
    assert "layers of small as csr on cpu" in lines
    assert "fc2 is left out: too small" in lines


def test_bench_says_which_clock_its_times_are_of(bench_result):
    told = "times are CPU time of the one thread that runs, not wall time"
    assert printed(bench_result).splitlines()[3] == told
    rows = [{"provider": "cpu", "clock": "cpu"}, {"provider": "cuda", "clock": "wall"}]
    both = dataclasses.replace(bench_result, comparison={"rows": rows})
    assert "times on cuda are wall time" in " ".join(printed(both).split())


def test_bench_of_one_model_shows_its_layers(bench_result):
    rows, layers = (
        [row for row in rows if row.name == "baseline"] for rows in (bench_result.rows, bench_result.layers)
    )
    lines = printed(dataclasses.replace(bench_result, rows=rows, layers=layers)).splitlines()
    start = lines.index("layers of baseline on cpu")
    assert [line.split() for line in lines[start + 1 : start + 4]] == [
        ["layer", "median", "ms", "p90", "ms", "of", "the", "whole"],
        ["conv1", "0.0500", "0.0550", "25", "%"],
        ["conv2", "0.1000", "0.1100", "50", "%"],
    ]


def test_an_earlier_bench_stands_model_by_model_with_names_whole(bench_result):
    changes = [
        results.BenchChange(name, layer, "cpu", "onnx", 0.1, 0.2, 2.0, 1.9, 2.1, speedup, speedup)
        for name, speedup in (("densenet121.onnx", None), ("densenet121_small.onnx", 3.0))
        for layer in (None, "/features/conv0/Conv")
    ]
    earlier = results.Earlier("old.json", "2026-01-01T00:00:00", changes, [])
    lines = printed(dataclasses.replace(bench_result, earlier=earlier)).splitlines()
    start = lines.index("against old.json of 2026-01-01T00:00:00")
    found = [line.split() for line in lines[start + 1 :] if line]
    times = ["0.1000", "0.2000", "2.00x", "1.90-2.10"]
    assert found[:8] == [
        ["densenet121.onnx", "on", "cpu,", "now", "and", "then"],
        ["layer", "ms", "then", "faster", "95", "%", "interval"],
        ["whole", *times],
        ["/features/conv0/Conv", *times],
        ["densenet121_small.onnx", "on", "cpu,", "now", "and", "then"],
        ["layer", "ms", "then", "faster", "95", "%", "interval", "speedup", "then"],
        ["whole", *times, "3.00x", "3.00x"],
        ["/features/conv0/Conv", *times, "3.00x", "3.00x"],
    ]
    assert max(map(len, lines)) <= 80


def test_a_speedup_is_coloured_only_beyond_its_interval(bench_result):
    text = printed(bench_result, colour=True)
    assert re.search(RED + "0.80x", text)
    assert re.search(GREEN + "5.00x", text)


def test_a_run_closes_with_the_papers_table(run_result):
    lines = printed(run_result).splitlines()
    [conv2] = [line for line in lines if line.startswith("conv2")]
    assert conv2.split() == [
        *("conv2", "19/50", "4/20", "60/500", "8.12", "%", "0.0200", "5.00x", "4.85-5.15")
    ]
    assert not any(line.startswith("fc1") for line in lines)
    [small] = [line for line in lines if line.startswith("small ") and "0.80 %" in line]
    assert "4.00x" in small
    assert lines[-1] == "report: runs/demo/report.html"


def test_a_model_that_is_known_as_onnx_alone_is_marked(run_result):
    dense, small = run_result.models
    exported = dataclasses.replace(dense, onnx="baseline", size_bytes=118_500)
    lines = printed(dataclasses.replace(run_result, models=[exported, small])).splitlines()
    row = next(line for line in lines if line.startswith("baseline") and "kB" in line)
    assert "118.5 kB onnx" in row
    assert "431 k onnx" in row
    assert max(map(len, lines)) <= 80
    assert "onnx" not in next(line for line in lines if line.startswith("small") and "kB" in line)


def test_an_error_of_more_than_half_a_point_is_red(run_result):
    worse = dataclasses.replace(run_result.models[1], error=0.02)
    text = printed(dataclasses.replace(run_result, models=[run_result.models[0], worse]), colour=True)
    assert re.search(RED + "2.00 %", text)


def test_a_layer_that_went_is_said(run_result):
    gone = dataclasses.replace(run_result.models[1], layers=run_result.models[1].layers[1:])
    lines = printed(dataclasses.replace(run_result, models=[run_result.models[0], gone])).splitlines()
    [conv1] = [line for line in lines if line.startswith("conv1")]
    assert conv1.split()[1:5] == ["0/20", "0/1", "0/25", "gone"]


def test_an_unknown_result_is_a_bug():
    with pytest.raises(TypeError, match="no table for GateError"):
        printed(GateError("x"))


@pytest.mark.parametrize("result", OTHERS, ids=lambda result: type(result).__name__)
def test_no_line_ends_in_blanks_off_a_terminal(result):
    assert all(line == line.rstrip() for line in printed(result).splitlines())


def test_doctor_keeps_paths_whole():
    path = "/home/somebody/" + "a-long-folder/" * 7 + "mnist"
    findings = [
        results.Finding("data mnist", "ok", path),
        results.Finding("torch", "ok", "2 " + "word " * 30),
    ]
    lines = printed(results.Diagnosis(findings)).splitlines()
    assert lines[0].split()[-1] == path
    assert len(lines) > 2
    assert max(map(len, lines[1:])) <= 80


def test_every_file_that_was_written_is_named():
    assert "plan -> small.plan.json" in printed(dataclasses.replace(PRUNE, plan="small.plan.json"))
    told = printed(dataclasses.replace(TRAINING, course="sparse.metrics.jsonl"))
    assert "course -> sparse.metrics.jsonl" in told


def test_a_note_that_was_a_warning_before_training_is_not_told_again():
    assert "is used" not in printed(dataclasses.replace(TRAINING, notes=["the graph itself is used"]))
