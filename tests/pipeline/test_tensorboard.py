"""What TensorBoard is told, and what is said where it is not installed."""

import sys
import types

import pytest

from sslcli.cli.main import main
from sslcli.pipeline.tensorboard import TensorBoardLog, scalars
from sslcli.training.progress import Progress

RECORD = Progress(
    kind="epoch", phase="sparse", epoch=1.0, step=40, loss=0.5, penalty=0.25, lr=0.01, images_per_s=100.0,
    metrics={"accuracy": 0.9, "loss": 0.4}, zero_groups={"filter": (3, 12)}, left={"macs": 0.5},
    strengths={"filter:conv1": 0.1, "shape": 0.2},
)  # fmt: skip


def test_every_number_has_a_name():
    assert dict(scalars(RECORD)) == {
        "train/loss": 0.5,
        "train/penalty": 0.25,
        "train/lr": 0.01,
        "train/samples per second": 100.0,
        "validation/accuracy": 0.9,
        "validation/loss": 0.4,
        "zero groups/filter": 0.25,
        "left/macs": 0.5,
        "strength/filter/conv1": 0.1,
        "strength/shape": 0.2,
    }


def test_what_a_record_does_not_know_is_left_out():
    assert list(scalars(Progress(kind="start", phase="train", epoch=0, step=0))) == []


def test_without_the_package_the_command_says_how_to_get_it(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    arguments = ["--data", "mnist-5k", "--max-steps", "1", "--tensorboard", str(tmp_path / "log")]
    assert main(["train", "arch:lenet", "-o", str(tmp_path / "x.pt2"), *arguments]) == 3
    assert "pip install 'sslcli[tensorboard]'" in capfd.readouterr().err
    assert not (tmp_path / "x.pt2").exists()


def test_scalars_are_written_at_their_step(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    log = TensorBoardLog(tmp_path / "a" / "b")
    log(RECORD)
    log(Progress(kind="end", phase="sparse", epoch=1.0, step=40))
    assert ("train/loss", 0.5, 40) in written
    assert written[-1] == "closed"
    assert (tmp_path / "a" / "b").is_dir()


def test_the_real_package_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TensorBoardLog(tmp_path)
    log(RECORD)
    log(Progress(kind="end", phase="sparse", epoch=1.0, step=40))
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    [event] = read.Scalars("validation/accuracy")
    assert (event.step, round(event.value, 6)) == (40, 0.9)
