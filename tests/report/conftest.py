import pytest

from sslcli.pipeline import results


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


def bench_row(layer, subject, median_ms, ratio=None, kind="onnx", limit=None):
    return {
        "provider": "cpu",
        "threads": 1,
        "batch_size": 1,
        "layer": layer,
        "op_type": None if layer is None else "Conv",
        "subject": subject,
        "kind": kind,
        "macs": 288_000,
        "limit": limit,
        "latency": {
            "median_ms": median_ms,
            "p90_ms": 1.1 * median_ms,
            "p99_ms": 1.2 * median_ms,
            "minimum_ms": 0.9 * median_ms,
            "throughput": 1e3 / median_ms,
        },
        "ratio": None if ratio is None else {"value": ratio, "low": 0.97 * ratio, "high": 1.03 * ratio},
        "nodes": {"cpu": 1},
        "runs_per_sample": 10,
        "samples_ns": [[int(median_ms * 1e6)] * 3] * 4,
    }


@pytest.fixture
def comparison():
    """LeNet's two convolutions: conv1 got slower, conv2 faster; conv2 as CSR as well."""
    return {
        "schema": "sslcli.bench/1",
        "models": [{"label": "dense", "size_bytes": 1_700_000, "sha256": "0", "difference": None}],
        "host": {"cpu_model": "a processor", "versions": {"torch": "2.13.0"}},
        "protocol": {"budget_s": 1.0},
        "rows": [
            bench_row(None, "dense", 0.2),
            bench_row(None, "small", 0.05, 4.0),
            bench_row("conv1", "dense", 0.05),
            bench_row("conv1", "small", 0.0625, 0.8, limit=1.0),
            bench_row("conv2", "dense", 0.1),
            bench_row("conv2", "small", 0.02, 5.0, limit=12.2),
            bench_row("conv2", "small", 0.2, 0.5, kind="csr", limit=12.2),
        ],
        "notes": ["fc2 is left out: too small"],
        "created": "2026-01-01T00:00:00+00:00",
    }


@pytest.fixture
def bench_result(comparison):
    rows = [
        results.BenchRow("dense", 0.2, 0.22, None, None, None),
        results.BenchRow("small", 0.05, 0.055, 4.0, 3.88, 4.12),
    ]
    return results.BenchResult(rows, comparison)


@pytest.fixture
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
        results.StepOutcome("baseline", "train", [], "cached", 0.0, ["runs/demo/baseline/model.pt2"]),
        results.StepOutcome("small", "prune", ["baseline"], "run", 3.21, ["runs/demo/small/model.pt2"]),
        results.StepOutcome(
            "speed", "bench", ["small"], "run", 65.0, [], result={"comparison": bench_result.comparison}
        ),
    ]
    return results.RunResult(
        "recipes/demo.yaml", "runs/demo", False, 68.2, steps, models, "runs/demo/report.html"
    )
