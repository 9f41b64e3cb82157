"""Outputs that cannot be written or that others write; data workers that die; clocks that go backwards."""

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from forked import Trouble

from sslcli.files import lock_output

TRAIN = "train arch:mlp --arch-arg hidden=[8] -o out.pt2 --data mnist-5k -b 16 --max-steps {} -q"
SHORT = TRAIN.format(3)
NOBODY = 65534
PRUNE = "prune arch:mlp --arch-arg hidden=[8] -o {} -q"


def require_refused(outcome, words):
    assert outcome.code == 9, outcome
    assert outcome.err.startswith("Error: ")
    assert outcome.err.count("\n") == 1
    assert words in outcome.err


@pytest.mark.parametrize(
    "command",
    [
        SHORT,
        PRUNE.format("out.pt2"),
        "export arch:lenet -o out.pt2 -q",
        "apply-plan plan.json --arch lenet -o out.pt2",
        "inspect arch:lenet --json out.pt2",
        "recipe init arch:lenet --data mnist-5k -o out.pt2",
    ],
)
def test_an_output_that_is_a_folder(command, folder):
    (folder.work / "out.pt2").mkdir()
    (folder.work / "plan.json").write_text("{}")
    require_refused(folder.run(command, Trouble()), "is a folder")
    assert folder.hidden() == []


def test_a_folder_of_a_run_that_is_a_file(folder):
    (folder.work / "out").write_text("mine")
    (folder.work / "r.yaml").write_text(
        "version: 1\nmodel: {arch: lenet}\nsteps: [{id: a, uses: inspect, needs: []}]\n"
    )
    require_refused(folder.run("run r.yaml -o out", Trouble()), "is a file")
    assert (folder.work / "out").read_text() == "mine"


def test_a_folder_that_may_not_be_written(server, monkeypatch):
    place = Path(tempfile.mkdtemp(prefix="sslcli-test-"))  # pytest's own folders are closed to other users
    try:
        place.chmod(0o777)
        (place / "work").mkdir()
        (place / "work").chmod(0o555)
        outcome = server.run(PRUNE.format("out.pt2").split(), place, Trouble(user=NOBODY))
        require_refused(outcome, "is not writable")
        assert list((place / "work").iterdir()) == []
    finally:
        (place / "work").chmod(0o755)
        shutil.rmtree(place)


def test_two_runs_on_one_output(folder):
    with lock_output(folder.work / "out.pt2"):
        require_refused(folder.run(SHORT, Trouble()), "is being written by another run")
    folder.must(SHORT)


def test_two_runs_in_one_folder(folder):
    (folder.work / "r.yaml").write_text(
        "version: 1\nmodel: {arch: lenet}\nsteps: [{id: a, uses: inspect, needs: []}]\n"
    )
    (folder.work / "out").mkdir()
    with lock_output(folder.work / "out" / "run"):
        require_refused(folder.run("run r.yaml -o out", Trouble()), "is being written by another run")
    folder.must("run r.yaml -o out -q")


def when(path, action):
    """Do something once a file is there, in a thread."""

    def wait():
        end = time.monotonic() + 60
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.005)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_an_output_that_appears_while_training(folder):
    """It is not replaced, and no work is lost."""
    out = folder.work / "out.pt2"
    command = TRAIN.format(300) + " --save-every-steps 20"
    thread = when(folder.work / ".out.pt2.state", lambda: out.write_text("mine"))
    outcome = folder.run(command, Trouble())
    thread.join()
    require_refused(outcome, "move it away and run the same command again")
    assert out.read_text() == "mine"
    out.rename(folder.work / "mine")
    folder.must(command + " --resume must")
    assert folder.hidden() == []


def test_the_same_bits_when_the_clock_goes_backwards(folder):
    folder.must(SHORT)
    before = folder.digest("out.pt2")
    outcome = folder.run(SHORT, Trouble(clock_back=True))
    assert outcome.code == 0, outcome
    assert folder.digest("out.pt2") == before


SAMPLES = """\
import os, signal, torch
class Samples:
    def __init__(self, count):
        self.count = count
    def __len__(self):
        return self.count
    def __getitem__(self, number):
        if number == {deadly} and os.path.exists("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.rand(1, 28, 28), number % 10
def make():
    return Samples(64), Samples(32), Samples(32)
"""
WORKERS = "train arch:mlp --arch-arg hidden=[8] -o out.pt2 --data d.py:make -b 8 --epochs 2 --workers {} -q"


def test_a_data_worker_that_dies(folder):
    """Told in one sentence; the state is kept, and the rerun's bits are those of a run without workers."""
    (folder.work / "d.py").write_text(SAMPLES.format(deadly=40))
    folder.must(WORKERS.format(0))
    expected = folder.digest("out.pt2")
    (folder.work / "out.pt2").unlink()
    (folder.work / "deadly").touch()
    outcome = folder.run(WORKERS.format(2) + " --save-every-steps 1", Trouble())
    assert outcome.code == 3, outcome
    assert outcome.err.count("\n") == 1
    assert "a process that read data died" in outcome.err
    assert not (folder.work / "out.pt2").exists()
    (folder.work / "deadly").unlink()
    folder.must(WORKERS.format(2) + " --save-every-steps 1 --resume auto")
    assert folder.digest("out.pt2") == expected


START = """\
import multiprocessing, sys
from sslcli.cli.main import main
if __name__ == "__main__":
    multiprocessing.set_start_method("{method}")
    sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_are_not_forks(method, folder):
    """The bits do not depend on how worker processes start, and one that dies is told of."""
    (folder.work / "d.py").write_text(SAMPLES.format(deadly=40))
    folder.must(WORKERS.format(0))
    expected = folder.digest("out.pt2")
    (folder.work / "out.pt2").unlink()
    script = START.format(method=method)
    (folder.work / "start.py").write_text(script)
    command = [sys.executable, "start.py", *WORKERS.format(2).split()]

    def start():
        return subprocess.run(
            command, cwd=folder.work, capture_output=True, text=True, timeout=300, check=False
        )

    (folder.work / "deadly").touch()
    died = start()
    assert died.returncode == 3, died
    assert "a process that read data died" in died.stderr
    (folder.work / "deadly").unlink()
    done = start()
    assert done.returncode == 0, done
    assert folder.digest("out.pt2") == expected
