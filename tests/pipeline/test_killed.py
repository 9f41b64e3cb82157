"""A recipe that is killed, at any moment, ends with the same bits when it is run again."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

RECIPE = """\
version: 1
model: {arch: lenet}
data: {name: mnist-5k, batch_size: 16}
steps:
  - {id: dense, uses: train, with: {max_steps: 40, save_every_steps: 4}}
  - id: sparse
    uses: regularize
    with: {max_steps: 40, save_every_steps: 4, size_weights: no, structures: {filter: 0.1, shape: 0.1}}
  - {id: small, uses: prune}
  - {id: polished, uses: train, with: {max_steps: 20, save_every_steps: 4}}
"""
STEPS = ("dense", "sparse", "small", "polished")


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-m", "sslcli", "run", str(folder / "r.yaml"), "-o", str(folder / "out"), "-q"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def contents(folder):
    return {
        step: hashlib.sha256((folder / "out" / step / "model.pt2").read_bytes()).hexdigest() for step in STEPS
    }


def finish(folder):
    process = start(folder)
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()
    assert not list(folder.rglob("*.tmp*")), "temporary files are left"
    return contents(folder)


@pytest.fixture
def reference(tmp_path):
    """A run that nothing stopped, and how long it took."""
    folder = tmp_path / "reference"
    folder.mkdir()
    (folder / "r.yaml").write_text(RECIPE)
    started = time.monotonic()
    return finish(folder), time.monotonic() - started


def kill_again_and_again(folder, seconds, moments):
    """Start, kill after a random time, and so on; from an empty folder whenever a run got through."""
    (folder / "r.yaml").write_text(RECIPE)
    for moment in moments:
        process = start(folder)
        try:
            process.wait(timeout=moment * seconds)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:
            shutil.rmtree(folder / "out")


@pytest.mark.slow
def test_twenty_kills_change_no_bit(tmp_path, reference):
    expected, seconds = reference
    folder = tmp_path / "killed"
    folder.mkdir()
    generator = random.Random(7)
    kill_again_and_again(folder, seconds, [generator.uniform(0.05, 0.95) for _ in range(20)])
    assert finish(folder) == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_130_and_says_how_to_go_on(tmp_path, number):
    folder = tmp_path / "stopped"
    folder.mkdir()
    (folder / "r.yaml").write_text(RECIPE.replace("max_steps: 40", "max_steps: 4000", 1))
    process = start(folder)
    while not (folder / "out" / "dense" / ".model.pt2.state").exists():
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "run the same command again" in err.decode()
    assert not (folder / "out" / "dense" / "model.pt2").exists()
