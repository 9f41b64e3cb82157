"""The Makefile for CI: what fails is known by its exit code and leaves no target behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import yaml
from onnx import TensorProto, helper

CI = Path(__file__).parents[2] / "recipes" / "ci"
SSLCLI = f"{sys.executable} -m sslcli"

CODE = """\
import torch
from torch import nn
from torch.utils.data import TensorDataset


def make_net():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make_net()

    def forward(self, x):
        y = self.net(x)
        return y + torch.rand_like(y)


def make_data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(96, 1, 8, 8, generator=generator)
    parts = inputs.split([64, 16, 16])
    return [TensorDataset(part, (part.sum((1, 2, 3)) > 0).long()) for part in parts]
"""

FAILING = """\
.DELETE_ON_ERROR:
five.pt2:
\t$(SSLCLI) regularize arch:code.py:make_net --data code.py:make_data -o $@ --max-steps 4 -q \\
\t    --target macs=0.01 --lr 1e-6
six.pt2:
\t$(SSLCLI) prune arch:code.py:Noisy --input-shape 1,8,8 --target macs=0.5 -o $@ -q
seven.json:
\t$(SSLCLI) bench one.onnx two.onnx --budget 0.1 --layers none --fail-under 1000 --json $@ -q
"""


def make(folder, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["make", *arguments, f"SSLCLI={SSLCLI}"], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "code.py").write_text(CODE)
    return tmp_path


def relu_onnx(path):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def test_missed_target_mismatch_and_gate_reach_make_as_5_6_and_7(folder):
    (folder / "Makefile").write_text(FAILING)
    for name in ("one.onnx", "two.onnx"):
        relu_onnx(folder / name)
    done = make(folder, "-k", "five.pt2", "six.pt2", "seven.json")
    assert done.returncode == 2
    found = dict(re.findall(r"Makefile:\d+: ([a-z]+)\.\w+\] Error (\d+)", done.stderr))
    assert found == {"five": "5", "six": "6", "seven": "7"}, done.stderr
    assert not [name for name in ("five.pt2", "six.pt2", "seven.json") if (folder / name).exists()]
    assert (folder / "five.nearest.pt2").exists()


def test_the_makefile_plans_the_chain_in_order(folder):
    (folder / "weights.pth").touch()
    done = make(folder, "-n", "-f", str(CI / "Makefile"), "ARCH=code.py:make_net", "DATA=code.py:make_data")
    assert done.returncode == 0, done.stderr
    commands = re.findall(r"-m sslcli ([a-z]+)", done.stdout)
    assert sorted(commands) == sorted(
        ["regularize", "prune", "export", "export", "bench", "evaluate", "evaluate", "report"]
    )
    assert commands.index("regularize") < commands.index("prune") < commands.index("bench")


@pytest.mark.slow
def test_the_chain_runs_is_up_to_date_and_notices_a_change(folder):
    settings = [
        "-f", str(CI / "Makefile"), "ARCH=code.py:make_net", "DATA=code.py:make_data", "MODEL=weights.pth",
        "TARGET=macs=0.7", "EPOCHS=4", "FINETUNE=1", "FAIL_UNDER=0.01", "BUDGET=0.5",
    ]  # fmt: skip
    code = "import torch, code; torch.save(code.make_net().state_dict(), 'weights.pth')"
    code = code.replace("import torch, code;", "import sys; sys.path.insert(0, '.'); import torch, code;")
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    done = make(folder, *settings)
    assert done.returncode == 0, done.stderr
    assert "small-pt2" in (folder / "build" / "report.html").read_text()
    again = make(folder, "-n", *settings, "build/small.onnx", "build/accuracy.json")
    assert "sslcli" not in again.stdout  # nothing to do
    os.utime(folder / "code.py")
    again = make(folder, "-n", *settings, "build/small.onnx")
    assert "regularize" in again.stdout  # the depfile named the user's code
    failed = make(folder, *settings, "gate", "FAIL_UNDER=1000")
    assert "Error 7" in failed.stderr
    assert make(folder, *settings, "report").returncode == 0
    assert "did not reach its goal" in (folder / "build" / "report.html").read_text()


def test_the_workflow_is_yaml_and_names_targets_that_exist():
    workflow = yaml.safe_load((CI / "workflow.yml").read_text())
    runs = [step["run"] for step in workflow["jobs"]["small"]["steps"] if "run" in step]
    named = re.findall(r"recipes/ci/Makefile (\w+)", " ".join(runs))
    assert named == ["gate", "report"]
    targets = re.findall(r"^(\w+):", (CI / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(named) <= set(targets)
