from pathlib import Path

import pytest
import torch

import sslcli
from sslcli.models.create import create

FILE = Path(__file__).parents[2] / "recipes" / "teachers.py"


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Two checkpoints as they are published, with norms that have seen something."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("resnet20", "resnet32")):
        net = create(name, seed=seed).train()
        with torch.no_grad():
            net(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(seed)))
        state = {f"module.{key}": value for key, value in net.state_dict().items()}
        torch.save({"state_dict": state}, f"{name}.th")
    return "resnet20.th,resnet32.th"


@torch.no_grad()
def test_several_networks_teach_as_one(weights):
    shape = {"arch_args": {"weights": weights}, "input_shape": (3, 32, 32)}
    made = sslcli.load(f"arch:{FILE}:resnets", **shape).model.eval()
    assert not [module for module in made.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    networks = [sslcli.load(name, arch=Path(name).stem).model.eval() for name in weights.split(",")]
    inputs = torch.randn(4, 3, 32, 32)
    expected = (networks[0](inputs) + networks[1](inputs)) / 2
    torch.testing.assert_close(made(inputs), expected, rtol=1e-4, atol=1e-4)
