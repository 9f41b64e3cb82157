"""Every command on a real model and real digits, small enough to take seconds."""

import json
from pathlib import Path

import pytest
import torch

import sslcli
from sslcli import checkpoint
from sslcli.cli.main import main
from sslcli.models import create
from sslcli.report.schemas import json_schemas

SPARSE = """\
version: 1
model: {arch: lenet}
data: {name: mnist-5k, batch_size: 16}
steps:
  - {id: dense, uses: train, with: {max_steps: 2}}
  - {id: sparse, uses: regularize, with: {max_steps: 2, structures: {filter: 0.01, shape: 0.01}}}
  - {id: small, uses: prune}
  - {id: dense-onnx, uses: export, needs: dense, with: {lower: dense}}
  - {id: onnx, uses: export, needs: small, with: {lower: compact}}
  - {id: speed, uses: bench, with: {baseline: dense-onnx, budget: 0.1, layers: none}}
  - {id: seen, uses: inspect, needs: onnx}
  - {id: measured, uses: evaluate, needs: onnx}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LeNet after two steps, and one of its kind with zero filters and columns."""
    folder = tmp_path_factory.mktemp("models")
    arguments = [
        "--data",
        "mnist-5k",
        "--max-steps",
        "2",
        "-b",
        "16",
        "-q",
        "--json",
        str(folder / "dense.json"),
    ]
    assert main(["train", "arch:lenet", "-o", str(folder / "dense.pt2"), *arguments]) == 0
    loaded = checkpoint.load(folder / "dense.pt2")
    with torch.no_grad():
        loaded.model.conv1.weight[5:] = 0
        loaded.model.conv1.bias[5:] = 0
        loaded.model.conv2.weight[10:] = 0
        loaded.model.conv2.weight[:, :, 0] = 0
    checkpoint.save(loaded, folder / "zeros.pt2", record=loaded.record)
    return folder


@pytest.fixture(scope="module")
def small(folder):
    assert main(["prune", str(folder / "zeros.pt2"), "-o", str(folder / "small.pt2"), "-q"]) == 0
    return folder / "small.pt2"


def test_validation_from_the_test_set_is_remembered(tmp_path):
    """The half that chose a model is not the half that tells its final error."""
    run = ["--data", "mnist-5k", "--max-steps", "1", "-b", "16", "-q", "--validation-from", "test"]
    assert main(["train", "arch:lenet", "-o", str(tmp_path / "a.pt2"), *run]) == 0
    seen = tmp_path / "seen.json"
    for more, samples in (
        ([], 500),
        (["--data", "mnist-5k"], 500),
        (["--data", "mnist-5k", "--validation-from", "train"], 1000),
    ):
        assert main(["evaluate", str(tmp_path / "a.pt2"), *more, "-q", "--json", str(seen)]) == 0
        assert json.loads(seen.read_text())["samples"] == samples


@pytest.fixture(scope="module")
def onnx(folder, small):
    arguments = ["--lower", "compact", "-q"]
    assert main(["export", str(small), "-o", str(folder / "small.onnx"), *arguments]) == 0
    return folder / "small.onnx"


def shown(capfd):
    """What a command with ``--json -`` printed."""
    return json.loads(capfd.readouterr().out)


def test_train_writes_the_model_with_its_record_and_its_course(folder):
    result = json.loads((folder / "dense.json").read_text())
    assert (result["schema"], result["steps"]) == ("sslcli/train/1", 2)
    record = checkpoint.load(folder / "dense.pt2").record
    assert (record.arch, record.data, record.provenance[-1].command) == ("lenet", "mnist-5k", "train")
    assert record.provenance[-1].options["max_steps"] == 2
    assert record.metrics["test accuracy"] == result["metrics"]["test"]["accuracy"]
    kinds = [json.loads(line)["kind"] for line in (folder / "dense.metrics.jsonl").read_text().splitlines()]
    assert kinds[-1] == "end"
    assert not list(folder.glob(".dense*"))


def test_evaluate_finds_what_train_reported(folder, capfd):
    assert main(["evaluate", str(folder / "dense.pt2"), "--json", "-"]) == 0
    result = shown(capfd)
    reported = json.loads((folder / "dense.json").read_text())["metrics"]["test"]
    assert (result["data"], result["samples"]) == ("mnist-5k", 1000)
    assert result["accuracy"] == reported["accuracy"]


def test_a_product_of_the_same_command_from_the_same_model_is_replaced(folder, tmp_path, capfd):
    out = tmp_path / "again.pt2"
    same = ["train", "arch:lenet", "-o", str(out), "--data", "mnist-5k", "--max-steps", "1", "-q"]
    assert main(same) == 0
    assert main(same) == 0
    other = ["train", str(folder / "dense.pt2"), *same[2:]]
    assert main(other) == 9
    assert "give --force to replace it" in capfd.readouterr().err
    assert main([*other, "--force"]) == 0


def test_a_file_that_is_not_ours_is_not_replaced(folder, tmp_path, capfd):
    out = tmp_path / "mine.pt2"
    out.write_text("thesis")
    assert main(["prune", str(folder / "zeros.pt2"), "-o", str(out)]) == 9
    assert out.read_text() == "thesis"
    assert "exists and was not made by this prune" in capfd.readouterr().err


def test_the_input_is_never_the_output(folder, capfd):
    path = str(folder / "zeros.pt2")
    assert main(["prune", path, "-o", path, "--force"]) == 9
    assert "is the input itself" in capfd.readouterr().err


def test_prune_removes_every_zero_group(folder, small, capfd):
    model = checkpoint.load(small).model
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert shapes["conv1.weight"] == (5, 1, 5, 5)
    assert shapes["conv2.weight"][1] == 5
    plan = json.loads((folder / "small.plan.json").read_text())
    assert plan["schema"] == "sslcli/plan/1"
    assert plan["kept"]["conv1.weight"]["0"] == [0, 1, 2, 3, 4]


def test_prune_reports_its_proofs_as_json_alone(folder, tmp_path, capfd):
    arguments = ["-o", str(tmp_path / "s.pt2"), "--data", "mnist-5k", "--json", "-"]
    assert main(["prune", str(folder / "zeros.pt2"), *arguments]) == 0
    result = shown(capfd)
    assert result["schema"] == "sslcli/prune/1"
    assert result["macs_after"] < result["macs_before"] == 2293000
    assert result["macs_packed"] <= result["macs_after"]
    assert result["max_rel_error"] < 1e-5
    assert result["reloaded_abs_error"] < 1e-5
    assert set(result["metrics"]["test"]) == {"accuracy", "loss"}


def test_what_was_pruned_computes_what_it_did_before(folder, small):
    before, after = checkpoint.load(folder / "zeros.pt2"), checkpoint.load(small)
    inputs = torch.randn(7, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(before.model(inputs), after.model(inputs), rtol=1e-5, atol=1e-5)


def test_onnx_is_evaluated_and_inspected_like_any_model(small, onnx, capfd):
    assert main(["evaluate", str(onnx), "--json", "-"]) == 0
    as_onnx = shown(capfd)
    assert main(["evaluate", str(small), "--json", "-"]) == 0
    assert as_onnx["accuracy"] == shown(capfd)["accuracy"]
    assert main(["inspect", str(onnx), "--json", "-"]) == 0
    assert shown(capfd)["details"]["record"]["provenance"][-1]["command"] == "export"


def test_inspect_counts_what_is_live(folder, capfd):
    assert main(["inspect", str(folder / "zeros.pt2"), "--groups", "--json", "-"]) == 0
    result = shown(capfd)
    layers = {layer["name"]: layer for layer in result["layers"]}
    assert layers["conv1"]["filters"] == [5, 20]
    assert layers["conv2"]["filters"] == [10, 50]
    assert layers["conv2"]["columns"] == [400, 500]
    assert layers["conv2"]["macs_packed"] == 10 * 400 * 64
    zero = {(group["structure"], group["label"]): group["zero"] for group in result["details"]["groups"]}
    assert zero["shape", "conv2"] == 100
    for group in result["details"]["groups"]:
        assert group["rms"] == sorted(group["rms"])
        assert len(group["rms"]) == (11 if group["zero"] < group["count"] else 0)
        assert all(size > 0 for size in group["rms"])


def test_inspect_gives_the_sizes_that_a_threshold_takes(folder, tmp_path, capfd):
    assert main(["inspect", str(folder / "dense.pt2"), "--groups", "--json", "-"]) == 0
    sizes = {(g["structure"], g["label"]): g["rms"] for g in shown(capfd)["details"]["groups"]}
    half = sizes["filter", "conv2"][5]
    only = ["--structure", "filter", "--keep", "conv1", "--keep", "fc*"]
    arguments = ["--threshold", str(half), *only, "-o", str(tmp_path / "z.pt2"), "--json", "-"]
    assert main(["prune", str(folder / "dense.pt2"), *arguments]) == 0
    layers = {layer["name"]: layer for layer in shown(capfd)["layers"]}
    assert layers["conv2"]["filters"] == [25, 50]  # the 25 smallest of 50; the 25th lies at half


def test_columns_that_a_threshold_took_stay_zero_in_training(folder, tmp_path, capfd):
    assert main(["inspect", str(folder / "dense.pt2"), "--groups", "--json", "-"]) == 0
    sizes = {(g["structure"], g["label"]): g["rms"] for g in shown(capfd)["details"]["groups"]}
    half = str(sizes["shape", "conv2"][5])
    small, tuned = str(tmp_path / "small.pt2"), str(tmp_path / "tuned.pt2")
    only = ["--structure", "shape", "--keep", "conv1", "--keep", "fc*"]
    assert main(["prune", str(folder / "dense.pt2"), "--threshold", half, *only, "-o", small, "-q"]) == 0
    assert main(["train", small, "--max-steps", "3", "-o", tuned, "-q"]) == 0
    capfd.readouterr()
    for path in (small, tuned):
        assert main(["inspect", path, "--json", "-"]) == 0
        layers = {layer["name"]: layer for layer in shown(capfd)["layers"]}
        assert layers["conv2"]["columns"] == [250, 500]


BRANCHED = """
import torch
from torch import nn

class Branched(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 6 * 6, 10)

    def forward(self, x):
        x = self.stem(x)
        return self.fc((x + self.branch(x)).relu().flatten(1))

class Samples:
    classes = list("0123456789")

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return torch.full((3, 8, 8), float(index)), index % 10

def data():
    return Samples(), Samples(), Samples()
"""


def test_a_class_of_ones_own_may_lose_a_layer_on_the_way(tmp_path, monkeypatch, capfd):
    """The class still calls the layer, so the graph goes on by itself, and it is said."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(BRANCHED)
    options = ["--arch", "net.py:Branched", "--data", "net.py:data", "-q"]
    small = ["prune", "arch:net.py:Branched", "--share", "depth=0.99", "--data", "net.py:data", "-q"]
    assert main([*small, "--share", "depth=0.5@none", "-o", "x.pt2"]) == 2
    state = create("net.py:Branched").state_dict()
    for name in ("branch.weight", "branch.bias"):
        state[name].zero_()
    torch.save(state, "w.pth")
    told = "the graph itself is used, since net.py:Branched could not be rebuilt"
    assert main(["prune", "w.pth", *options[:-1], "-o", "small.pt2"]) == 0
    assert told in " ".join(capfd.readouterr().out.split())
    steps = ["--max-steps", "1", *options[:-1]]
    assert main(["train", "small.pt2", *steps, "-o", "tuned.pt2"]) == 0
    assert told in " ".join(capfd.readouterr().err.split())
    assert main(["train", "small.pt2", "--teacher", "w.pth", *steps, "-o", "taught.pt2"]) == 0
    for name in ("tuned.pt2", "taught.pt2"):
        capfd.readouterr()
        assert main(["inspect", name, "--json", "-"]) == 0
        assert [layer["name"] for layer in shown(capfd)["layers"]] == ["stem", "fc"]
    assert main(["apply-plan", "small.pt2", "--arch", "net.py:Branched", "-o", "own.pt2"]) == 3
    assert not Path("own.pt2").exists()
    assert main(["evaluate", "small.pt2", "--arch", "net.py:Samples", "--data", "net.py:data", "-q"]) == 3
    capfd.readouterr()
    assert main(["evaluate", "small.pt2", *options[:-1]]) == 0
    assert told in " ".join(capfd.readouterr().err.split())


def test_weights_alone_of_another_class_teach_a_model_that_says_what_it_is(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(BRANCHED)
    assert main(["prune", "arch:resnet20", "--share", "depth=0.5", "-o", "small.pt2", "-q"]) == 0
    torch.save(create("resnet32").state_dict(), "w.pth")
    options = ["--arch", "resnet32", "--data", "net.py:data", "--max-steps", "1", "-b", "4", "-q"]
    assert main(["train", "small.pt2", "--teacher", "w.pth", *options, "-o", "x.pt2"]) == 0
    assert main(["train", "small.pt2", *options, "-o", "y.pt2"]) == 3  # without a teacher it is the model's


def test_bench_shows_the_numbers_even_if_the_gate_fails(onnx, folder, tmp_path, capfd):
    report = tmp_path / "bench.json"
    arguments = ["--budget", "0.1", "--layers", "none", "--fail-under", "1000", "--json", str(report)]
    assert main(["bench", str(folder / "dense.pt2"), str(onnx), *arguments]) == 7
    out, err = capfd.readouterr()
    assert "small.onnx" in out
    assert err.splitlines()[-1].startswith("Error: small.onnx on cpu is ")
    result = json.loads(report.read_text())
    assert [row["name"] for row in result["rows"]] == ["dense.pt2", "small.onnx"]
    assert (
        result["rows"][1]["speedup_low"] <= result["rows"][1]["speedup"] <= result["rows"][1]["speedup_high"]
    )
    assert result["failure"]["exit_code"] == 7


@pytest.mark.parametrize("plan", ["small.plan.json", "small.pt2"])
def test_apply_plan_makes_the_users_own_class_small(folder, small, tmp_path, plan, capfd):
    out = tmp_path / "own.safetensors"
    assert main(["apply-plan", str(folder / plan), "--arch", "lenet", "-o", str(out)]) == 0
    assert ("The weights are fresh" in capfd.readouterr().out) == plan.endswith(".json")
    loaded = checkpoint.load(out)
    assert type(loaded.model) is type(create("lenet"))
    assert loaded.model.conv1.weight.shape == (5, 1, 5, 5)
    if plan == "small.pt2":
        inputs = torch.randn(3, 1, 28, 28)
        with torch.no_grad():
            torch.testing.assert_close(loaded.model(inputs), checkpoint.load(small).model(inputs))


def test_dry_runs_check_and_write_nothing(folder, tmp_path, capfd):
    out = tmp_path / "x.pt2"
    arguments = ["--data", "mnist-5k", "--epochs", "3", "--dry-run", "--json", "-"]
    assert main(["train", str(folder / "dense.pt2"), "-o", str(out), *arguments]) == 0
    result = shown(capfd)
    assert (result["schema"], result["command"], result["options"]["epochs"]) == (
        "sslcli/planned/1",
        "train",
        3,
    )
    assert list(tmp_path.iterdir()) == []
    assert main(["train", "none.pt2", "-o", str(out), *arguments]) == 3


def test_options_come_from_the_environment_too(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("SSLCLI_DATA", "mnist-5k")
    monkeypatch.setenv("SSLCLI_TRAIN_EPOCHS", "7")
    arguments = ["-o", str(tmp_path / "x.pt2"), "--dry-run", "--json", "-"]
    assert main(["train", "arch:lenet", *arguments]) == 0
    options = shown(capfd)["options"]
    assert (options["data"], options["epochs"]) == ("mnist-5k", 7)


def test_the_folder_of_the_timings_is_no_value_of_a_flag(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLCLI_CACHE_DIR", str(tmp_path / "timings"))
    out = tmp_path / "a.onnx"
    assert main(["export", str(folder / "zeros.pt2"), "-o", str(out), "--budget", "0.01", "-q"]) == 0
    assert list((tmp_path / "timings").rglob("*.json"))


@pytest.fixture
def bad(tmp_path):
    """Files that are not what they should be."""
    torch.save(create("mlp"), tmp_path / "pickled.pt")
    torch.save(create("mlp").state_dict(), tmp_path / "other.pth")
    (tmp_path / "cut.pt2").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "text.onnx").write_text("not ONNX")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("none.pt2", "does not exist"),
        ("pickled.pt", "--trust-pickle"),
        ("other.pth", "conv1"),
        ("cut.pt2", "cut.pt2"),
        ("text.onnx", "text.onnx"),
    ],
)
def test_bad_models_are_exit_3_and_one_sentence(bad, name, sentence, capfd):
    assert main(["evaluate", str(bad / name), "--arch", "lenet", "--data", "mnist-5k"]) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert sentence in err


def test_a_data_set_that_is_not_there_is_exit_3(folder, capfd):
    assert main(["evaluate", str(folder / "dense.pt2"), "--data", "mnits"]) == 3
    assert "did you mean mnist" in capfd.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_exit_8(folder, capfd):
    assert main(["evaluate", str(folder / "dense.pt2"), "--device", "cuda"]) == 8
    assert "sslcli doctor" in capfd.readouterr().err


def test_a_folder_that_is_not_there_is_exit_9_before_any_work(folder, tmp_path, capfd):
    assert main(["prune", str(folder / "zeros.pt2"), "-o", str(tmp_path / "none" / "x.pt2")]) == 9
    assert "does not exist" in capfd.readouterr().err


def test_a_recipe_runs_through_and_a_second_time_does_nothing(tmp_path, capfd):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(SPARSE)
    run = ["run", str(recipe), "-o", str(tmp_path / "out"), "--json", "-", "-q"]
    assert main(run) == 0
    result = shown(capfd)
    assert {step["state"] for step in result["steps"]} == {"run"}
    models = {row["id"]: row for row in result["models"]}
    assert set(models) == {"dense", "sparse", "small"}
    assert models["dense"]["speedup"] is None
    assert models["small"]["speedup"] > 0
    assert models["small"]["error"] == pytest.approx(1 - result["steps"][-1]["result"]["accuracy"])
    assert main(run) == 0
    again = shown(capfd)
    assert {step["state"] for step in again["steps"]} == {"cached"}
    assert again["models"] == result["models"]


@pytest.mark.parametrize("arguments", [["recipe", "validate"], ["run"]])
def test_a_glob_that_matches_nothing_is_found_before_anything_is_trained(tmp_path, capfd, arguments):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(SPARSE.replace("filter: 0.01", "filter: {convo1: 0.01}"))
    out = ["-o", str(tmp_path / "out")] if arguments == ["run"] else []
    assert main([*arguments, str(recipe), *out]) == 3
    message = f"Error: {recipe}:6: the glob 'convo1' matches no layer with filter groups in step 'sparse'; "
    assert capfd.readouterr().err == message + "did you mean 'conv1'?\n"


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "arch:mlp", "--arch-arg", "hidden=[4]", "--json", "mine"],
        ["inspect", "arch:mlp", "--arch-arg", "hidden=[4]", "--json", "x", "--depfile", "mine"],
        ["bench", "a.onnx", "--budget", "0.1", "--layers", "none", "--csv", "mine"],
        ["bench", "a.onnx", "--budget", "0.1", "--layers", "none", "--markdown", "mine"],
    ],
)
def test_a_side_output_replaces_only_its_own_kind(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if words[0] == "bench":
        assert main(["export", "arch:mlp", "--arch-arg", "hidden=[4]", "-o", "a.onnx", "-q"]) == 0
    mine = tmp_path / "mine"
    mine.write_bytes(b"PK\x03\x04 a checkpoint: \n")
    assert main([*words, "-q"]) == 9
    assert "mine exists and is not" in capsys.readouterr().err
    assert mine.read_bytes() == b"PK\x03\x04 a checkpoint: \n"
    mine.write_bytes(b"")
    for _ in range(2):
        assert main([*words, "-q"]) == 0
    assert mine.stat().st_size > 0


_TOLD = ["--json", "small.json", "--depfile", "small.d"]


def test_a_divergence_under_a_target_keeps_the_nearest_model(tmp_path, monkeypatch, capsys):
    """With a rate that no network stands, after an epoch that it stood."""
    monkeypatch.chdir(tmp_path)
    command = "regularize arch:lenet -o out.pt2 --data mnist-5k --target macs=0.5 --epochs 1 -q"
    assert main([*command.split(), "--finetune-epochs", "1", "--finetune-lr", "1e30"]) == 5
    said = capsys.readouterr().err
    assert "with --finetune-lr (1e+30), the loss was nan, so the weights of epoch 1 are kept" in said
    assert "the nearest model is out.nearest.pt2; lower --finetune-lr (1e+30)" in said
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["out.metrics.jsonl", "out.nearest.pt2"]
    assert sslcli.load("out.nearest.pt2")


def test_a_target_that_pruning_cannot_meet_keeps_the_nearest_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "arch:lenet", "--target", "macs=0.0001", "-o", "small.pt2", *_TOLD]) == 5
    said = capsys.readouterr().err
    assert "would be left" in said
    assert "the nearest model is small.nearest.pt2" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.json", "small.nearest.pt2"]
    result = json.loads(Path("small.json").read_text())
    assert result["failure"]["exit_code"] == 5
    assert (result["output"], result["plan"]) == ("small.nearest.pt2", None)
    assert result["target"] == {"macs": 0.0001}
    assert result["reached"]["macs"] == result["macs_after"] / result["macs_before"] > 0.0001
    assert result.keys() == json_schemas()["sslcli/prune/1"]["properties"].keys()
    assert main(["prune", "small.nearest.pt2", "--target", "macs=0.5", "-o", "small.pt2"]) == 9
    assert "small.nearest.pt2 is where the nearest model of small.pt2 goes" in capsys.readouterr().err
    nearest, _ = sslcli.load("small.nearest.pt2")
    assert all(weight.shape[0] == 1 for name, weight in nearest.named_parameters() if name == "conv1.weight")


def test_a_nearest_model_goes_when_the_target_is_met(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "arch:lenet", "--target", "macs=0.0001", "-o", "small.pt2", "-q"]) == 5
    Path("other.nearest.pt2").write_bytes(Path("small.nearest.pt2").read_bytes())
    assert main(["prune", "arch:lenet", "--target", "macs=0.5", "-o", "small.pt2", "-q"]) == 0
    assert main(["prune", "small.pt2", "-o", "other.pt2", "-q"]) == 0
    kept = sorted(path.name for path in tmp_path.glob("*.pt2"))
    assert kept == ["other.nearest.pt2", "other.pt2", "small.pt2"]  # of another model


def test_a_target_that_training_misses_is_told_with_what_was_reached(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["regularize", "arch:lenet", "--data", "mnist-5k", "--max-steps", "2", "-o", "small.pt2"]
    assert main([*words, "--target", "macs=0.001", "--max-drop", "90", *_TOLD]) == 5
    shown = capsys.readouterr()
    assert "the nearest model is small.nearest.pt2" in shown.err
    assert "small.nearest.pt2" in shown.out
    result = json.loads(Path("small.json").read_text())
    assert result.keys() == json_schemas()["sslcli/regularize/1"]["properties"].keys()
    assert result["output"] == "small.nearest.pt2"
    assert result["failure"]["what"].startswith("the target was not met: macs is")
    assert result["target"] == {"macs": 0.001, "drop": 90}
    assert result["reached"].keys() == {"macs", "drop"}
    assert result["reached"]["macs"] > 0.001
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "small.json", "small.metrics.jsonl", "small.nearest.pt2"
    ]  # fmt: skip
    assert main([*words, "--target", "macs=0.9"]) == 0
    assert not Path("small.nearest.pt2").exists()


def test_models_that_take_different_inputs_are_not_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "arch:mlp", "arch:resnet20", "--fail-under", "0.01", "--budget", "0.1"]) == 3
    assert "arch:mlp takes inputs of 1x28x28, arch:resnet20 of 3x32x32" in capsys.readouterr().err
