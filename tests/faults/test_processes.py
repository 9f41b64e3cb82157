"""Runs of several processes, as ``torchrun`` starts them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from sslcli import checkpoint

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
REGULARIZE = [
    *("regularize", "arch:lenet", "-o", "out.pt2", "--data", "mnist-5k", "-b", "16", "--no-size-weights"),
    *("--structure", "filter=0.05", "--structure", "shape=0.05", "--threads", "1"),
]


def torchrun(folder, count, *arguments, module=("-m", "sslcli")):
    return subprocess.Popen(
        [*TORCHRUN, str(count), *module, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def must(process):
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    return out


def zeros(path):
    """Which weights are exactly zero, by name."""
    state = checkpoint.load(path).model.state_dict()
    return {name: value == 0 for name, value in state.items()}


def distance(a, b):
    return max(float((a[n] - b[n]).abs().max() / b[n].abs().max().clamp(min=1e-300)) for n in b)


def test_the_command_line_under_torchrun(tmp_path):
    """One writer, one table, samples counted once, and no state or lock left."""
    out = must(torchrun(tmp_path, 2, *REGULARIZE, "--max-steps", "4", "--json", "-", "-q"))
    result = json.loads(out)  # two processes printing would not parse
    assert result["steps"] == 4
    assert result["data"]["samples"]["validation"] == 400
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.metrics.jsonl", "out.pt2"]


def test_a_missed_target_leaves_the_nearest_model(tmp_path):
    """All processes miss it; the one that writes must have written before torchrun ends them all."""
    regularize = "regularize arch:lenet -o out.pt2 --data mnist-5k -b 16 --threads 1 --json out.json -q"
    target = "--target macs=0.001 --max-drop 0 --epochs 1 --max-steps 4"
    process = torchrun(tmp_path, 2, *regularize.split(), *target.split())
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert err.count("Error: the target was not met") == 1
    assert "exitcode  : 5" in err
    assert "interrupted" not in err
    assert json.loads((tmp_path / "out.json").read_text())["output"] == "out.nearest.pt2"
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["out.json", "out.metrics.jsonl", "out.nearest.pt2"]


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_ends_all_with_its_error(tmp_path):
    process = torchrun(tmp_path, 2, *REGULARIZE, "-b", "15", "--max-steps", "2", "-q")
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "a batch of 15 cannot be shared evenly by 2 processes" in err
    assert list(tmp_path.glob("*.pt2")) == []


@pytest.mark.slow
def test_doctor_finds_that_processes_work_together(tmp_path):
    from sslcli.training.rehearsal import rehearse

    assert rehearse() == "2 processes on 1 node agree, by gloo"


@pytest.mark.slow
def test_doctor_under_torchrun(tmp_path):
    out = must(torchrun(tmp_path, 3, "doctor", "--distributed", "--json", "-"))
    found = {finding["name"]: finding for finding in json.loads(out)["findings"]}
    assert found["distributed"]["text"].startswith("3 processes on 1 node agree")


LENET = """
import sys, torch
from pathlib import Path
from sslcli import checkpoint, targeting
from sslcli.data import load_data
from sslcli.options.training import RegularizeOptions
from sslcli.training.world import joined
torch.set_num_threads(1)
dtype, epochs = getattr(torch, sys.argv[1]), int(sys.argv[2])
loaded = checkpoint.load("arch:lenet")
example = tuple(x.to(dtype) for x in loaded.example)
options = RegularizeOptions.model_validate({
    "epochs": epochs, "lr": 0.01, "size_weights": False, "schedule": "constant",
    "structures": {"filter": 0.03, "shape": 0.03}})
with joined("cpu") as world:
    trained = targeting.regularize(loaded.model.to(dtype), example, load_data("mnist-5k"), options=options,
                                   batch_size=64, world=world, device=torch.device("cpu"))
    final = {"state": trained.model.state_dict(), "zeros": trained.zero_groups, "metrics": trained.metrics}
    torch.save(final, f"final{world.rank}of{world.size}.pt")
"""


def lenet(folder, count, dtype="float64", epochs=3):
    """Train LeNet in ``count`` processes; what each of them ended with."""
    (folder / "train.py").write_text(LENET)
    must(torchrun(folder, count, dtype, str(epochs), module=("train.py",)))
    return [torch.load(folder / f"final{rank}of{count}.pt", weights_only=True) for rank in range(count)]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_and_four_processes_give_the_weights_of_one(tmp_path, capsys):
    (one,) = lenet(tmp_path, 1)
    gone = {name: value == 0 for name, value in one["state"].items()}
    for count in (2, 4):
        many = lenet(tmp_path, count)
        for other in many:
            assert distance(other["state"], one["state"]) < 1e-9
            assert all(torch.equal(other["state"][n] == 0, gone[n]) for n in gone)
            assert other["zeros"] == one["zeros"]
            assert other["metrics"] == pytest.approx(one["metrics"], rel=1e-9)
        with capsys.disabled():
            print(count, "processes:", distance(many[0]["state"], one["state"]), one["zeros"], one["metrics"])
    assert sum(map(int, (value.sum() for value in gone.values()))) > 1000


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_in_single_precision_all_processes_have_the_same_zeros(tmp_path):
    many = lenet(tmp_path, 4, "float32", epochs=1)
    for other in many[1:]:
        assert all(torch.equal(other["state"][n], many[0]["state"][n]) for n in other["state"])
        assert other["zeros"] == many[0]["zeros"]


def stopped_after_a_save(folder, count, *arguments):
    """Start, wait for a state, ask for a stop; all processes' words."""
    process = torchrun(folder, count, *arguments)
    state, end = folder / ".out.pt2.state", time.monotonic() + 300
    while not state.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    return err


@pytest.mark.slow
def test_one_process_goes_on_where_two_stopped(tmp_path):
    long = [*REGULARIZE, "--max-steps", "120", "--save-every-steps", "10", "-q"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    must(torchrun(whole, 1, *long))
    err = stopped_after_a_save(cut, 2, *long)
    assert "run the same command again to go on from there" in err
    assert not (cut / "out.pt2").exists()
    must(torchrun(cut, 1, *long, "--resume", "must"))
    a, b = (checkpoint.load(folder / "out.pt2").model.state_dict() for folder in (cut, whole))
    assert distance(a, b) < 1e-3  # float32: the order of sums moves them
    assert {name: tuple(value.shape) for name, value in zeros(cut / "out.pt2").items()} == {
        name: tuple(value.shape) for name, value in zeros(whole / "out.pt2").items()
    }


DIES = """\
import os, torch
class Samples:
    def __len__(self):
        return 64
    def __getitem__(self, number):
        if os.environ["RANK"] == "1" and number == 33:
            {how}
        return torch.full((1, 28, 28), number / 100), number % 10
def make():
    return Samples(), None, None
"""
HOWS = {"raises": "raise ValueError('the disk of this node')", "is killed": "os.kill(os.getpid(), 9)"}


@pytest.mark.slow
@pytest.mark.parametrize("how", HOWS)
def test_a_process_that_dies_ends_the_others_with_its_error(how, tmp_path):
    """Without torchrun, which would end them itself."""
    (tmp_path / "d.py").write_text(DIES.format(how=HOWS[how]))
    arguments = ["train", "arch:lenet", "-o", "out.pt2", "--data", "d.py:make", "-b", "8", "-q"]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29777", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "sslcli", *arguments],
            cwd=tmp_path,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    (first, second) = [process.communicate(timeout=200)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert first.count("\n") == 1, first
    if how == "raises":
        assert codes == [3, 3]
        assert "the disk of this node" in second
        assert "process 1 has failed: " in first
        assert "the disk of this node" in first
    else:
        assert codes == [1, -9]
        assert "another process of this run has died" in first
    assert not (tmp_path / "out.pt2").exists()
