import json
from dataclasses import replace

import pytest

from sslcli import checkpoint
from sslcli.cli.main import main

FACTORY = """\
import torch
from torch.utils.data import TensorDataset

def digits():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(40, 1, 28, 28, generator=generator), torch.arange(40) % 10
    return TensorDataset(images[:20], labels[:20]), TensorDataset(images[20:], labels[20:])
"""


@pytest.fixture
def data(tmp_path):
    (tmp_path / "digits.py").write_text(FACTORY)
    return f"{tmp_path / 'digits.py'}:digits"


def test_every_layer_has_a_curve_in_table_and_json(data, tmp_path, capfd):
    path = tmp_path / "seen.json"
    assert main(["inspect", "arch:lenet", "--sensitivity", "--data", data, "--json", str(path)]) == 0
    found = json.loads(path.read_text())["details"]["sensitivity"]
    assert found["samples"] == 20
    assert [(curve["label"], curve["groups"]) for curve in found["curves"]] == [
        ("conv1", 20),
        ("conv2", 50),
        ("fc1", 500),
    ]
    for curve in found["curves"]:
        assert len(curve["metric"]) == len(curve["removed"]) == 5
    assert found["curves"][0]["removed"] == [0.1, 0.25, 0.5, 0.75, 0.9]  # 2 and 18 of 20, and so on
    out = capfd.readouterr().out
    assert "88% gone" in out
    assert "% (90%)" in out
    assert "of 20 validation samples" in out


def test_sensitivity_without_data_is_an_error(capfd):
    assert main(["inspect", "arch:lenet", "--sensitivity"]) == 3
    assert "--sensitivity needs data" in capfd.readouterr().err


def test_the_data_that_the_models_record_names_are_used(tmp_path, capfd):
    path = str(tmp_path / "m.pt2")
    loaded = checkpoint.load("arch:lenet")
    checkpoint.save(
        loaded.model, path, example=loaded.example, record=replace(loaded.record, data="mnist-5k")
    )
    assert main(["inspect", path, "--sensitivity"]) == 0
    assert "of 400 validation samples" in capfd.readouterr().out
    learned = ["--target", "macs=0.5", "--importance", "taylor", "--json", "-"]
    assert main(["prune", path, "-o", str(tmp_path / "small.pt2"), *learned]) == 0
    assert json.loads(capfd.readouterr().out)["metrics"]["test"].keys() == {"accuracy", "loss"}
