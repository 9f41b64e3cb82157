"""Every way of naming a saved model, and what is refused."""

import os
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sslcli import models
from sslcli.checkpoint import Record, load
from sslcli.checkpoint.match import check_finite
from sslcli.errors import ModelError

NETS = """
import torch

class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4, bias=False)
        self.second = torch.nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).relu())

def small(width=3):
    return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.BatchNorm1d(width))
"""


@pytest.fixture
def nets(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return str(path)


def test_unpacks_as_model_and_example():
    model, example = load("arch:lenet")
    assert not model.training
    assert example[0].shape == (2, 1, 28, 28)
    assert model(*example).shape == (2, 10)


def test_fresh_weights_follow_the_seed():
    one, two, three = (load("arch:lenet", seed=s).model.conv1.weight for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_fresh_arch_records_how_to_rebuild_it():
    record = load("arch:convnet", arch_args={"dropout": "0.5"}).record
    assert (record.arch, record.arch_args) == ("convnet", {"dropout": 0.5})


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".ckpt"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_state_dicts_are_seen_through_wrappers_and_prefixes(suffix, wrapper, prefix, tmp_path):
    model = models.create("mlp", {"hidden": "[6]"}, seed=4)
    path = tmp_path / f"weights{suffix}"
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, wrapper: state} if wrapper else state, path)
    loaded = load(path, arch="mlp", arch_args={"hidden": "[6]"}).model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_legacy_pickles_without_zip_load(tmp_path):
    model = models.create("lenet", seed=4)
    path = tmp_path / "old.th"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    assert torch.equal(load(path, arch="lenet").model.fc2.weight, model.fc2.weight)


def test_loaded_weights_share_storage_with_nothing(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(models.create("lenet").state_dict(), path)
    one, two = load(path, arch="lenet").model, load(path, arch="lenet").model
    one.conv1.weight.data.zero_()
    assert two.conv1.weight.abs().sum() > 0


def test_half_precision_weights_are_cast(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({n: t.half() for n, t in models.create("lenet").state_dict().items()}, path)
    assert load(path, arch="lenet").model.conv1.weight.dtype == torch.float32


def test_weights_without_arch_ask_for_it(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(models.create("lenet").state_dict(), path)
    with pytest.raises(ModelError, match="--arch"):
        load(path)


def test_missing_unexpected_and_misshaped_keys_are_listed(tmp_path):
    state = models.create("lenet").state_dict()
    state["extra.weight"] = torch.zeros(2)
    state["conv1.weight"] = torch.zeros(3, 1, 5, 5)
    del state["fc2.bias"]
    path = tmp_path / "w.pt"
    torch.save(state, path)
    with pytest.raises(ModelError) as caught:
        load(path, arch="lenet")
    message = str(caught.value)
    assert "missing fc2.bias" in message
    assert "unexpected extra.weight" in message
    assert "conv1.weight (file 3x1x5x5, model 20x1x5x5)" in message
    assert caught.value.exit_code == 3


def test_lists_of_keys_are_bounded(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({f"k{i}": torch.zeros(1) for i in range(500)}, path)
    with pytest.raises(ModelError, match=r"and 494 more") as caught:
        load(path, arch="lenet")
    assert len(str(caught.value)) < 1000


def test_batch_counts_may_be_missing_or_superfluous(nets, tmp_path):
    state = models.create(f"{nets}:small").state_dict()
    del state["1.num_batches_tracked"]
    path = tmp_path / "w.pt"
    torch.save(state, path)
    assert load(path, arch=f"{nets}:small", input_shape=(4,)).model[1].num_batches_tracked == 0
    torch.save({**models.create("lenet").state_dict(), "bn.num_batches_tracked": torch.tensor(1)}, path)
    load(path, arch="lenet")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_numbers_are_named(value, tmp_path):
    state = models.create("lenet").state_dict()
    state["conv2.weight"][3, 1, 0, 0] = value
    path = tmp_path / "w.pt"
    torch.save(state, path)
    with pytest.raises(ModelError, match=r"not numbers: conv2\.weight"):
        load(path, arch="lenet")


def test_finite_weights_whose_sum_overflows_are_fine():
    check_finite({"weight": torch.full((5,), 1.7e308, dtype=torch.float64)}, "here")


def test_one_name_of_a_tied_weight_is_enough(nets, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"first.weight": torch.full((4, 4), 2.0)}, path)
    model = load(path, arch=f"{nets}:Tied", input_shape=(4,)).model
    assert model.first.weight is model.second.weight
    assert torch.equal(model.second.weight, torch.full((4, 4), 2.0))


def test_code_references_need_an_input_shape(nets):
    with pytest.raises(ModelError, match="--input-shape"):
        load(f"arch:{nets}:small")
    assert load(f"arch:{nets}:small", input_shape=(4,)).example[0].shape == (2, 4)


# Pickles.


class Bomb:
    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".ckpt", ".bin"])
def test_pickles_with_code_are_refused_and_not_run(suffix, zipped, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / f"w{suffix}"
    torch.save({"state_dict": Bomb(canary)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="run code") as caught:
        load(path, arch="lenet")
    assert "--trust-pickle" in str(caught.value)
    assert "mkdir" in str(caught.value)
    assert not canary.exists()


def test_a_pickled_module_needs_trust(tmp_path):
    path = tmp_path / "module.pt"
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    torch.save(module, path)
    with pytest.raises(ModelError, match="run code"):
        load(path)
    loaded, example = load(path, trust_pickle=True, input_shape=(1, 4))
    assert torch.equal(loaded(*example), module(*example))
    assert not loaded.training


def test_trust_does_not_make_weights_a_model(tmp_path):
    path = tmp_path / "w.pt"
    torch.save([1, 2, 3], path)
    with pytest.raises(ModelError, match="list, not a state dict"):
        load(path, trust_pickle=True)


def test_torchscript_is_named(tmp_path):
    path = tmp_path / "script.pt"
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    with pytest.raises(ModelError, match="TorchScript"):
        load(path, arch="lenet")


# Broken files.


@pytest.mark.parametrize("name", ["none.pt2", "none.pt", "none.safetensors", "none"])
def test_a_missing_file_is_one_sentence(name, tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        load(tmp_path / name)


def test_a_bare_architecture_gets_the_right_hint():
    with pytest.raises(ModelError, match="arch:resnet20"):
        load("resnet20")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match="folder"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["w.pt2", "w.pt", "w.safetensors", "w.onnx"])
def test_an_empty_file_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelError, match="empty"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    "content", [b"hello world, this is text", b"\x00" * 64, b"PK\x03\x04 not a zip", b"\x80"]
)
@pytest.mark.parametrize("name", ["w.pt2", "w.pt", "w.th", "w.safetensors", "w.xyz"])
def test_garbage_is_one_sentence(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load(tmp_path / name, arch="lenet")
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.8, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_weights_are_one_sentence(kind, keep, tmp_path):
    state = models.create("mlp", {"hidden": "[8]"}).state_dict()
    path = tmp_path / "w.pt"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ModelError) as caught:
        load(path, arch="mlp", arch_args={"hidden": "[8]"})
    assert "\n" not in str(caught.value)


def safetensors_file(path, header, data=b""):
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}',
        b"{" * 5000,
        b'{"a":1}',
    ],
)
def test_lying_safetensors_headers_are_refused(header, tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors_file(path, header, b"\0" * 8)
    with pytest.raises(ModelError):
        load(path, arch="lenet")


def test_a_header_longer_than_the_file_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(ModelError, match="safetensors"):
        load(path, arch="lenet")


def test_tensors_that_claim_terabytes_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"conv1.weight": torch.zeros(1).expand(10**6, 10**6)}, path)
    with pytest.raises(ModelError, match="does not fit"):
        load(path, arch="lenet")


def test_sparse_and_complex_tensors_are_misfits(tmp_path):
    state = models.create("lenet").state_dict()
    state["fc2.bias"] = state["fc2.bias"].to(torch.complex64)
    state["fc1.bias"] = state["fc1.bias"].to_sparse()
    path = tmp_path / "w.pt"
    torch.save(state, path)
    with pytest.raises(ModelError, match=r"fc1\.bias"):
        load(path, arch="lenet")


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"\0" * 50_000_000)
    with pytest.raises(ModelError, match="compressed"):
        load(path, arch="lenet")


def test_onnx_says_which_commands_take_it(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x0a\x12\x07pytorch")
    with pytest.raises(ModelError, match="bench"):
        load(path)


def test_content_outranks_the_suffix(tmp_path):
    path = tmp_path / "weights.bin"
    torch.save(models.create("lenet", seed=2).state_dict(), path)
    assert torch.equal(load(path, arch="lenet").model.fc2.weight, models.create("lenet", seed=2).fc2.weight)


def test_an_arch_that_contradicts_the_record_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(
        models.create("resnet20").state_dict(), path, metadata={"sslcli": Record(arch="resnet20").to_json()}
    )
    assert load(path).record.arch == "resnet20"
    with pytest.raises(ModelError, match="made from resnet20, not from lenet"):
        load(path, arch="lenet")
