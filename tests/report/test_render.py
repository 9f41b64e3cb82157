import dataclasses
import io
import re

import pytest
from rich.console import Console

from sslcli.errors import GateError
from sslcli.pipeline import results
from sslcli.report import render

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
        {"name": "features.block1.0.conv2+features.block1.1.conv2", "filters": [5, 20], "why": "x" * 70},
    ],
    metrics={"validation": {"accuracy": 0.975, "loss": 0.05}},
)
OTHERS = [
    TRAINING,
    PRUNE,
    results.ExportResult(
        "small.pt2", "small.onnx", 640_000, "auto", 1e-6, 1e-7, [{"layer": "conv1", "choice": "dense"}]
    ),
    results.InspectResult(
        "small.pt2", 372_000, 340_000, 160_000, [{"name": "conv1", "kind": "conv", "filters": 20}],
        {"pinned": {"conv1": "its input is the model's"}, "notes": ["one"]},
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
    assert "16.3 %" in text
    assert "verified: largest difference 2.4e-07 (relative 1.0e-07)" in text


def test_markup_in_data_is_text():
    assert "a [bold] word" in printed(OTHERS[-1])


def test_bench_shows_layers_with_their_limits_and_notes(bench_result):
    lines = printed(bench_result).splitlines()
    assert "layers of small on cpu" in lines
    [conv2] = [line for line in lines if line.startswith("conv2") and "5.00x" in line]
    assert conv2.split() == ["conv2", "0.1000", "0.0200", "5.00x", "4.85-5.15", "12.20x"]
    assert "layers of small as csr on cpu" in lines
    assert "fc2 is left out: too small" in lines


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
