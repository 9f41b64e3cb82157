"""A recipe that is stopped by a signal keeps its state; tests/faults kills it without warning."""

import os
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
  - {id: dense, uses: train, with: {max_steps: 4000, save_every_steps: 4}}
"""


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-m", "sslcli", "run", str(folder / "r.yaml"), "-o", str(folder / "out"), "-q"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_130_and_says_how_to_go_on(tmp_path, number):
    folder = tmp_path / "stopped"
    folder.mkdir()
    (folder / "r.yaml").write_text(RECIPE)
    process = start(folder)
    while not (folder / "out" / "dense" / ".model.pt2.state").exists():
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "run the same command again" in err.decode()
    assert not (folder / "out" / "dense" / "model.pt2").exists()
