import logging

import pytest
import torch

from sslcli import checkpoint
from sslcli.checkpoint import Record
from sslcli.cli.main import main
from sslcli.errors import DataError, DeviceError, ModelError, UsageError
from sslcli.options.common import DataOptions, ModelOptions, RunOptions
from sslcli.pipeline.inputs import choose_device, load_data, load_model, normalization, threads

RECORD = Record(mean=(0.1,), std=(0.2,), data="mnist-5k")


def options(**values):
    return DataOptions.model_validate(values)


@pytest.fixture
def other(tmp_path):
    loaded = checkpoint.load("arch:lenet")
    record = Record(arch="lenet", mean=(0.5,), std=(0.25,))
    checkpoint.save(loaded.model, tmp_path / "other.safetensors", example=loaded.example, record=record)
    bare = Record(arch="lenet")
    checkpoint.save(loaded.model, tmp_path / "bare.safetensors", example=loaded.example, record=bare)
    return tmp_path


def test_what_the_user_says_wins_over_another_model_over_the_models_own(other):
    path = str(other / "other.safetensors")
    assert normalization(options(mean=[0.3], std=[0.4], normalize_from=path), RECORD) == ((0.3,), (0.4,))
    assert normalization(options(normalize_from=path), RECORD) == ((0.5,), (0.25,))
    assert normalization(options(), RECORD) == ((0.1,), (0.2,))
    assert normalization(options(), Record()) == (None, None)


def test_a_model_without_a_normalisation_is_no_source_of_one(other):
    with pytest.raises(DataError, match="records no normalisation"):
        normalization(options(normalize_from=str(other / "bare.safetensors")), RECORD)


def test_the_records_data_set_is_the_default():
    source = load_data(options(), RECORD, 0, (1, 28, 28))
    assert source.name == "mnist-5k"
    assert source.normalization.mean == (0.1,)


def test_no_data_set_at_all_is_a_usage_error():
    with pytest.raises(UsageError, match="--data"):
        load_data(options(), Record(), 0, None)


@pytest.mark.parametrize("name", ["tpu", "meta", "cpu:x"])
def test_devices_that_do_not_exist_are_usage_errors(name):
    with pytest.raises(UsageError, match=name):
        choose_device(RunOptions.model_validate({"device": name}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "cuda:3"])
def test_cuda_that_is_not_there_is_a_device_error(name):
    with pytest.raises(DeviceError, match=name):
        choose_device(RunOptions.model_validate({"device": name}))


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 10))
"""


def test_the_data_tell_what_a_state_dict_takes(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    arch = ModelOptions.model_validate({"arch": f"{tmp_path}/net.py:make"})
    fresh = load_model(f"arch:{arch.arch}", arch, 0, options(data="mnist-5k"))
    assert fresh.example[0].shape == (2, 1, 28, 28)
    assert fresh.record.inputs[0].shape == (1, 28, 28)
    torch.save(fresh.model.state_dict(), tmp_path / "w.pth")
    loaded = load_model(str(tmp_path / "w.pth"), arch, 0, options(data="mnist-5k"))
    assert loaded.example[0].shape == (2, 1, 28, 28)
    with pytest.raises(ModelError, match="shape of the inputs"):
        load_model(str(tmp_path / "w.pth"), arch, 0, options())


TOKENS = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

def make():
    return nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(20, 2))

def data():
    part = TensorDataset(torch.arange(5).repeat(4, 1), torch.zeros(4, dtype=torch.long))
    return part, part
"""


def test_the_data_tell_that_inputs_are_token_numbers(tmp_path):
    (tmp_path / "net.py").write_text(TOKENS)
    arch = ModelOptions.model_validate({"arch": f"{tmp_path}/net.py:make"})
    loaded = load_model(f"arch:{arch.arch}", arch, 0, options(data=f"{tmp_path}/net.py:data"))
    assert (loaded.example[0].dtype, loaded.example[0].shape) == (torch.int64, (2, 5))
    assert loaded.model(*loaded.example).shape == (2, 2)


@pytest.fixture
def images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for split in ("train", "test"):
        for label, value in (("dark", 10), ("light", 250)):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(10):
                image.new("RGB", (12, 12), (value, value, value)).save(folder / f"{number}.png")
    return f"imagefolder:{tmp_path / 'images'}"


def test_what_is_assumed_of_image_folders_is_said(images, caplog, monkeypatch):
    # A command that ran in this process before has set both.
    monkeypatch.setattr(logging.getLogger("sslcli"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="sslcli")
    load_data(options(data=images), Record(), 0, None)
    assert "are resized to 3x224x224; --input-shape" in caplog.text
    assert "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" in caplog.text
    caplog.clear()
    load_data(options(data=images, mean=[0, 0, 0], std=[1, 1, 1]), Record(), 0, (3, 8, 8))
    assert caplog.text == ""


GUESSING = """
from torch import nn
def make():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    nn.init.ones_(net[2].weight)
    net[2].weight.data[0] = -1
    nn.init.zeros_(net[2].bias)
    net[2].bias.data[1] = -3 * {middle}
    net[2].bias.data[0] = 3 * {middle}
    return net
"""


@pytest.mark.parametrize(("middle", "guesses"), [(0.5, False), (50, True)])
def test_a_checkpoint_that_guesses_is_told_of(images, middle, guesses, tmp_path, monkeypatch, capsys):
    """The net tells dark from light around ``middle`` of the inputs' values."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(GUESSING.format(middle=middle))
    words = f"--input-shape 3,8,8 --data {images} --mean 0,0,0 --std 1,1,1 --max-steps 1 --lr 1e-9"
    assert main(["train", "arch:net.py:make", *words.split(), "-o", "a.pt2"]) == 0
    assert "no better than chance" not in capsys.readouterr().err
    assert main(f"train a.pt2 --data {images} --max-steps 1 -o b.pt2".split()) == 0
    assert ("a.pt2 is no better than chance" in capsys.readouterr().err) == guesses
    assert main(f"evaluate a.pt2 --data {images} --split train".split()) == 0
    assert ("a.pt2 is no better than chance" in capsys.readouterr().err) == guesses


@pytest.mark.parametrize("name", ["hook.py:make", "hook:make", "../hook.py:make"])
def test_a_factory_that_only_the_record_names_is_not_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hook.py").write_text("raise SystemExit(77)\n")
    with pytest.raises(DataError, match="as its data, which is code") as raised:
        load_data(options(), Record(data=name), 0, None)
    assert raised.value.hint == f"give --data {name} to run it"
