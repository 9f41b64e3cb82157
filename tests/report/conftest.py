import dataclasses
import json
import shutil

import pytest
import torch
from torch import nn

from sslcli.pipeline import results
from sslcli.report import to_json


def layer(name, filters, channels, columns, macs, packed=None, kind="conv"):
    return {
        "name": name,
        "kind": kind,
        "filters": filters,
        "channels": channels,
        "columns": columns,
        "macs": macs,
        "macs_packed": macs if packed is None else packed,
        "note": "",
    }


def bench_row(name, layer, median_ms, speedup=None, kind="onnx", limit=None):
    low, high = (None, None) if speedup is None else (0.97 * speedup, 1.03 * speedup)
    return results.BenchRow(name, layer, "cpu", kind, median_ms, 1.1 * median_ms, speedup, low, high, limit)


@pytest.fixture(scope="session")
def bench_result():
    """LeNet's two convolutions: conv1 got slower, conv2 faster; conv2 as CSR as well."""
    rows = [bench_row("baseline", None, 0.2), bench_row("small", None, 0.05, 4.0)]
    layers = [
        bench_row("baseline", "conv1", 0.05),
        bench_row("small", "conv1", 0.0625, 0.8, limit=1.0),
        bench_row("baseline", "conv2", 0.1),
        bench_row("small", "conv2", 0.02, 5.0, limit=12.2),
        bench_row("small", "conv2", 0.2, 0.5, kind="csr", limit=12.2),
    ]
    comparison = {
        "host": {"cpu_model": "a processor", "system": "Linux 6", "versions": {"torch": "2.13.0"}},
        "rows": [{"provider": "cpu", "threads": 1, "batch_size": 1, "clock": "cpu"}],
        "notes": ["fc2 is left out: too small"],
    }
    files = {"baseline": "runs/demo/baseline/model.pt2", "small": "runs/demo/onnx/model.onnx"}
    return results.BenchResult(rows, layers, files, comparison)


@pytest.fixture(scope="session")
def run_result(bench_result):
    dense = [
        layer("conv1", 20, 1, 25, 288_000),
        layer("conv2", 50, 20, 500, 1_600_000),
        layer("fc1", 500, 800, 800, 400_000, kind="linear"),
    ]
    small = [
        layer("conv1", 5, 1, 21, 72_000, 60_000),
        layer("conv2", 19, 4, 60, 150_000, 130_000),
        layer("fc1", 500, 300, 300, 150_000, kind="linear"),
    ]
    models = [
        results.ModelRow("baseline", 0.009, dense, 2_288_000, 2_288_000, 431_000, 1_730_000, 0.2),
        results.ModelRow("small", 0.008, small, 372_000, 340_000, 160_000, 640_000, 0.05, 4.0, 3.88, 4.12),
    ]
    steps = [
        results.StepOutcome(
            "baseline",
            "train",
            [],
            "cached",
            0.0,
            ["runs/demo/baseline/model.pt2"],
            result={"data": {"samples": {"test": 1000}}},
        ),
        results.StepOutcome("small", "prune", ["baseline"], "run", 3.21, ["runs/demo/small/model.pt2"]),
        results.StepOutcome("speed", "bench", ["small"], "run", 65.0, [], result=to_json(bench_result)),
    ]
    return results.RunResult(
        "recipes/demo.yaml", "runs/demo", False, 68.2, steps, models, "runs/demo/report.html"
    )


def course(epochs=5):
    return [
        {
            "kind": "epoch",
            "phase": "sparse",
            "epoch": epoch,
            "epochs": epochs,
            "loss": 1 / epoch,
            "penalty": 2 / epoch,
            "metrics": {"accuracy": 0.9 + 0.01 * epoch, "loss": 0.3},
            "zero_groups": {"filter": [epoch, 10]},
            "strengths": {"filter": 0.005 * epoch},
        }
        for epoch in range(1, epochs + 1)
    ]


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    """Two convolutions as a ``.pt2``; the first of the second's two filters is zero."""
    from sslcli import checkpoint

    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3)).eval()
    with torch.no_grad():
        model[1].weight[0] = 0
    path = tmp_path_factory.mktemp("model") / "model.pt2"
    checkpoint.save(model, path, example=(torch.zeros(2, 1, 8, 8),))
    return path


@pytest.fixture(scope="session")
def write_run(run_result):
    """Writes a folder as ``sslcli run`` leaves it; with a real model in it where one is given."""

    def write(folder, model=None, **changes):
        for step in run_result.steps:
            (folder / step.id).mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(to_json(dataclasses.replace(run_result, **changes))))
        lines = [json.dumps(record) for record in course()]
        (folder / "baseline" / "metrics.jsonl").write_text("\n".join([*lines, '{"kind": "epo']))
        (folder / "small" / "step.json").write_text(json.dumps({"given": {"target": {"macs": 0.5}}}))
        if model is not None:
            shutil.copy(model, folder / "small" / "model.pt2")
        return folder

    return write
