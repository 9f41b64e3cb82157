"""Two outputs of one command at one place: refused before anything runs."""

from pathlib import Path

import pytest

from sslcli.cli.main import main

PRUNE = ["prune", "arch:lenet", "--target", "macs=0.5", "-o", "z.pt2"]
TRAIN = ["train", "arch:lenet", "--data", "mnist-5k", "-o", "z.pt2"]
BENCH = ["bench", "arch:lenet"]
EXPORT = ["export", "arch:lenet", "-o", "z.onnx"]
INIT = ["recipe", "init", "arch:lenet", "--data", "mnist-5k", "-o", "n"]
RECIPE = """\
version: 1
model: {arch: lenet}
data: {name: mnist-5k}
steps:
  - {id: dense, uses: train}
  - {id: small, uses: prune}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "here").symlink_to(tmp_path)
    for name in ("dense", "small"):
        (tmp_path / "R" / name).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "one", "other"),
    [
        ([*PRUNE, "--json", "z.pt2"], "--json z.pt2", "--output z.pt2"),
        ([*PRUNE, "--json", "here/z.pt2"], "--json here/z.pt2", "--output z.pt2"),
        ([*PRUNE, "--json", "z.plan.json"], "--json z.plan.json", "the plan z.plan.json"),
        ([*PRUNE, "--depfile", "z.nearest.pt2"], "--depfile", "the nearest model z.nearest.pt2"),
        ([*PRUNE, "--json", "z.j", "--depfile", "z.j"], "--depfile z.j", "--json z.j"),
        ([*TRAIN, "--json", "z.metrics.jsonl"], "--json z.metrics.jsonl", "the course z.metrics.jsonl"),
        ([*TRAIN, "--depfile", ".z.pt2.state"], "--depfile", "the state .z.pt2.state"),
        ([*EXPORT, "--json", "z.onnx.data"], "--json", "the weights z.onnx.data"),
        ([*BENCH, "--csv", "t", "--markdown", "t"], "--markdown t", "--csv t"),
        ([*BENCH, "--csv", "t", "--json", "here/t"], "--json here/t", "--csv t"),
        (["apply-plan", "p.json", "--arch", "lenet", "-o", "z.pt2", "--json", "z.pt2"], "--json", "--output"),
        (["report", "runs", "-o", "page.html", "--json", "page.html"], "--json", "--output page.html"),
        ([*INIT, "--json", "n"], "--json n", "--output n"),
        (["run", "r.yaml", "-o", "R", "--json", "R/report.html"], "--json", "the report R/report.html"),
        (["run", "r.yaml", "-o", "R", "--depfile", "R/run.json"], "--depfile", "the run's record R/run.json"),
        (["run", "r.yaml", "-o", "R", "--json", "R/small/plan.json"], "--json", "the plan R/small/plan.json"),
        (["run", "r.yaml", "-o", "R", "--json", "R/dense/model.pt2"], "--json", "the output of step dense"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rehearsed", [[], ["--dry-run"]])
def test_two_outputs_at_one_place_are_refused(capfd, arguments, one, other, rehearsed):
    assert main([*arguments, *rehearsed]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert one in said
    assert other in said
    assert said.endswith("; give each a file of its own\n")
    assert {path.name for path in Path().rglob("*")} == {"here", "r.yaml", "R", "dense", "small"}


def test_a_result_does_not_replace_a_plan(capfd):
    assert main([*PRUNE, "-q"]) == 0
    arguments = ["apply-plan", "z.plan.json", "--arch", "lenet", "-o", "own.pt2", "--json", "z.plan.json"]
    assert main(arguments) == 9
    assert "z.plan.json exists and is not a result of sslcli" in capfd.readouterr().err
