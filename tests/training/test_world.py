from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sslcli.errors import UsageError
from sslcli.training.world import ALONE, World

SCRIPT = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
import conftest
from pathlib import Path
from sslcli.data.source import DataSource
from sslcli.options.training import RegularizeOptions
from sslcli.sparsity.penalty import WeightedSet
from sslcli.training.loop import fit
from sslcli.training.progress import MetricsFile
from sslcli.training.world import joined
torch.set_num_threads(1)
torch.manual_seed(0)
folder, steps = Path(sys.argv[2]), int(sys.argv[3])
net = conftest.Net(norm=False).to(getattr(torch, sys.argv[4]))
data = DataSource("blobs", conftest.Blobs(96, noisy=True), conftest.Blobs(47, 1), None, None, (1, 8, 8))
layouts = []
net.conv2.register_forward_pre_hook(
    lambda conv, _: layouts.append(conv.weight.is_contiguous(memory_format=torch.channels_last)))
penalties = [WeightedSet(conftest.conv_set("conv2", net.conv2.weight, k), 8e-3) for k in ("filter", "shape")]
options = RegularizeOptions(epochs=4, finetune_epochs=1, lr=0.05, schedule="constant")
class Enough(Exception):
    pass
def stop(progress):
    if progress.kind == "epoch" and progress.step >= steps:
        import os, signal
        os.kill(os.getpid(), signal.SIGTERM)
with joined("cpu") as world:
    observers = [MetricsFile(folder / "metrics.jsonl"), stop] if world.writes else []
    result = fit(net, None, data, options, batch_size=16, penalties=penalties, world=world,
                 observers=observers, state_path=folder / "state")
    torch.save({"model": net.state_dict(), "metrics": result.metrics, "zeros": result.zero_groups,
                "channels_last": any(layouts)},
               folder / f"final{world.rank}.pt")
os._exit(0)  # as sslcli/__main__.py does: threads of gloo can abort a process that ends in Python's way
"""

LOOKING = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
import conftest
from pathlib import Path
from sslcli.data.source import DataSource
from sslcli.options.training import RegularizeOptions
from sslcli.training.loop import fit
from sslcli.training.world import joined
torch.set_num_threads(1)
torch.manual_seed(0)
net, seen = conftest.Net(norm=True), []
data = DataSource("blobs", conftest.Blobs(96, noisy=True), conftest.Blobs(47, 1), None, None, (1, 8, 8))
class Looking:
    every, look_every = 2, 2
    def look(self, parameters): pass
    def penalties(self): return []
    def adjust(self, signs):
        seen.append(torch.cat([net.bn.running_mean, net.bn.running_var]))
        return []
    def choose(self, parameters, step): return []
    def lacks(self, parameters, step): return False
    def state(self): return {}
    def restore(self, state): pass
with joined("cpu") as world:
    fit(net, None, data, RegularizeOptions(epochs=2), batch_size=16, controller=Looking(), world=world)
    torch.save(torch.stack(seen), Path(sys.argv[2]) / f"final{world.rank}.pt")
os._exit(0)
"""


def launch(folder, count, steps=10**6, dtype="float64", script=SCRIPT):
    """Run the script in ``count`` processes as torchrun would; their exit codes and errors."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(folder), str(steps), dtype]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    return [process.returncode for process in processes], errors


def finals(folder, count):
    return [torch.load(folder / f"final{rank}.pt", weights_only=True) for rank in range(count)]


def distance(a, b):
    return max(float((a[n] - b[n]).abs().max() / b[n].abs().max().clamp(min=1e-300)) for n in b)


@pytest.mark.parametrize(
    ("count", "layout"),
    [(2, "contiguous"), (2, "channels-last"), pytest.param(4, "contiguous", marks=pytest.mark.slow)],
)
def test_processes_together_give_the_weights_of_one(count, layout, tmp_path):
    laid_out = SCRIPT.replace("lr=0.05", f"lr=0.05, channels_last={layout == 'channels-last'}")
    for folder, number, script in (("one", 1, SCRIPT), ("many", count, laid_out)):
        codes, errors = launch(tmp_path / folder, number, script=script)
        assert codes == [0] * number, errors
    (one,), many = finals(tmp_path / "one", 1), finals(tmp_path / "many", count)
    for other in many:
        assert distance(other["model"], one["model"]) < 1e-9
        assert other["zeros"] == one["zeros"]
        assert other["channels_last"] == (layout == "channels-last")
        assert other["metrics"] == pytest.approx(one["metrics"], rel=1e-9)
        assert all(torch.equal(other["model"][n], many[0]["model"][n]) for n in other["model"])
    assert one["zeros"]["shape"][0] > 0
    assert (tmp_path / "many" / "metrics.jsonl").read_text().count('"kind": "epoch"') == 5


@pytest.mark.slow
def test_a_run_of_two_goes_on_as_one(tmp_path):
    codes, errors = launch(tmp_path / "whole", 1)
    assert codes == [0], errors
    codes, errors = launch(tmp_path / "cut", 2, steps=12)
    assert all(code != 0 for code in codes)
    assert all("after step 12 of 30" in error for error in errors), errors
    codes, errors = launch(tmp_path / "cut", 1)
    assert codes == [0], errors
    (whole,), (cut,) = finals(tmp_path / "whole", 1), finals(tmp_path / "cut", 1)
    assert distance(cut["model"], whole["model"]) < 1e-9
    assert cut["zeros"] == whole["zeros"]


@pytest.mark.slow
def test_zero_groups_are_the_same_on_all_processes_in_single_precision(tmp_path):
    codes, errors = launch(tmp_path / "many", 2, dtype="float32")
    assert codes == [0, 0], errors
    first, second = finals(tmp_path / "many", 2)
    assert all(torch.equal(first["model"][n], second["model"][n]) for n in first["model"])


def test_controllers_see_the_same_statistics_on_all_processes(tmp_path):
    """What is left without a filter depends on its norm, so the choices of two processes could differ."""
    codes, errors = launch(tmp_path / "two", 2, script=LOOKING)
    assert codes == [0, 0], errors
    first, second = finals(tmp_path / "two", 2)
    assert torch.equal(first, second)
    assert not torch.equal(first[1], first[-1])


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UsageError, match="a batch of 10 cannot be shared evenly by 4 processes"):
        World(0, 4).check_batch(10)


def test_alone_nothing_is_exchanged():
    assert ALONE.any(True, False) == (True, False)
    assert ALONE.share("value") == "value"
    assert float(ALONE.sum(torch.tensor(3.0))) == 3.0
