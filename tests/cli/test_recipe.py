import json
import textwrap
from pathlib import Path

import pytest
import torch
from PIL import Image

import sslcli
from sslcli.cli.main import main
from sslcli.recipe import load_recipe

GOOD = """\
version: 1
model: {arch: lenet}
data: {name: mnist-5k}
steps:
  - {id: first, uses: train, with: {epochs: 1}}
  - {id: second, uses: regularize, with: {epochs: 2, structures: {filter: 0.1}}}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(GOOD)
    return path


def test_validate_says_so(recipe, capfd):
    assert main(["recipe", "validate", str(recipe)]) == 0
    assert capfd.readouterr().out == f"{recipe} is a good recipe of 2 steps\n"


def test_validate_lists_every_problem_with_its_line(recipe, capfd):
    recipe.write_text(GOOD.replace("epochs: 1", "epohcs: 1").replace("epochs: 2", "epochs: two"))
    assert main(["recipe", "validate", str(recipe)]) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"Error: {recipe}:5: unknown key 'epohcs' in step 'first' (train); did you mean 'epochs'?",
        f"Error: {recipe}:6: 'epochs' should be a whole number, not 'two' in step 'second' (regularize)",
    ]


def test_run_refuses_a_bad_recipe_with_exit_3(recipe, capfd):
    recipe.write_text(GOOD.replace("version: 1", "version: 1\nversion: 1"))
    assert main(["run", str(recipe)]) == 3
    assert (
        capfd.readouterr().err
        == f"Error: {recipe}:2: the key 'version' is given twice (first on line 1); keep one\n"
    )


def test_explain_is_in_words(recipe, capfd):
    assert main(["recipe", "explain", str(recipe)]) == 0
    out = capfd.readouterr().out
    assert "starts from a fresh lenet (seed 0), on mnist-5k" in out
    assert "2. second (regularize), on the output of first" in out
    assert "epochs = 2   (Passes over the training data)" in out


def test_dry_run_as_json_is_json_alone(recipe, tmp_path, capfd):
    assert main(["run", str(recipe), "-o", str(tmp_path / "out"), "--dry-run", "--json", "-"]) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert (result["schema"], result["dry_run"]) == ("sslcli/run/1", True)
    assert [step["state"] for step in result["steps"]] == ["to run", "to run"]
    assert err == ""
    assert not (tmp_path / "out").exists()


def test_what_init_writes_is_a_good_recipe(tmp_path, capfd):
    path = tmp_path / "mine.yaml"
    assert main(["recipe", "init", "arch:lenet", "--data", "mnist-5k", "-o", str(path)]) == 0
    assert main(["recipe", "validate", str(path)]) == 0
    assert main(["recipe", "init", "arch:lenet", "--data", "mnist-5k", "-o", str(path)]) == 9
    assert "exists" in capfd.readouterr().err


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A folder with weights, images, code and a task, and the current one."""
    monkeypatch.chdir(tmp_path)
    torch.save(sslcli.load("arch:mlp").model.state_dict(), "w.pth")
    torch.save(sslcli.load("arch:mlp").model.state_dict(), "my weights: 1.pth")
    for number in range(4):
        path = tmp_path / "a b" / "train" / "class" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (30, 30), number).save(path)
    (tmp_path / "code.py").write_text(textwrap.dedent(CODE))


CODE = """
    import torch.nn.functional as F
    from torch import nn

    import sslcli

    def net(width=4):
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 2))

    def task():
        return sslcli.Task("mine", F.cross_entropy, lambda out, target: (out.argmax(1) == target).float())
"""


def test_init_of_weights_keeps_odd_names(tmp_path, start, capfd):
    assert main(["recipe", "init", "my weights: 1.pth", "--arch", "mlp", "--data", "imagefolder:a b"]) == 0
    text = capfd.readouterr().out
    assert 'weights: "my weights: 1.pth"' in text
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["recipe", "explain", str(tmp_path / "mine.yaml")]) == 0
    assert "starts from the weights my weights: 1.pth, on imagefolder:a b" in capfd.readouterr().out


def test_init_of_weights_compares_with_the_weights_as_they_are(tmp_path, start):
    path = tmp_path / "mine.yaml"
    assert main(["recipe", "init", "w.pth", "--arch", "mlp", "--data", "mnist-5k", "-o", str(path)]) == 0
    steps = load_recipe(path).steps
    assert [step.id for step in steps] == ["baseline", "before", "sparse", "small", "onnx", "after", "speed"]
    needs = {step.id: step.needs for step in steps}
    assert needs["sparse"] == ()  # the recipe's own model, not the export of it
    assert set(needs["speed"]) == {"onnx", "baseline"}
    assert steps[2].settings.step.target == {"macs": 0.5}
    assert all(line.lstrip().startswith("#") for line in path.read_text().splitlines()[:3])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.pth", "--arch", "mlp", "--data", "mnist-5k"], "the saved model none.pth does not exist"),
        (["w.pth", "--arch", "code.py:nte", "--data", "mnist-5k"], "code.py has no attribute 'nte'"),
        (["w.pth", "--data", "mnist-5k"], "holds weights but not their architecture; name it with --arch"),
        (["w.pth", "--arch", "mlp", "--data", "mnist-6k"], "there is no data set 'mnist-6k'"),
        (["w.pth", "--arch", "mlp", "--data", "imagefolder:none"], "has no folder train, val or test"),
        (["arch:lenet", "--data", "mnist-5k", "--task", "code.py:tsak"], "code.py has no attribute 'tsak'"),
        (["arch:code.py:net", "--arch-arg", "wdith=3", "--data", "mnist-5k"], "making code.py:net(wdith=3)"),
    ],
)
def test_init_finds_what_is_not_there(start, capfd, arguments, sentence):
    assert main(["recipe", "init", *arguments, "-o", "r.yaml"]) == 3
    assert sentence in capfd.readouterr().err
    assert not Path("r.yaml").exists()


def test_init_writes_the_arguments_the_task_and_what_images_become(start, capfd):
    source = ["arch:code.py:net", "--arch-arg", "width=6", "--input-shape", "3,8,8"]
    more = ["--data", "imagefolder:a b", "--task", "code.py:task"]
    assert main(["recipe", "init", *source, *more, "-o", "r.yaml"]) == 0
    recipe = load_recipe(Path("r.yaml"))
    assert (recipe.model.arch_arg, recipe.model.input_shape) == ({"width": 6}, (3, 8, 8))
    tasks = {step.id: getattr(step.settings.step, "task", None) for step in recipe.steps}
    assert {name for name, task in tasks.items() if task == "code.py:task"} == {"baseline", "sparse", "after"}
    text = Path("r.yaml").read_text()
    assert "# samples: 3,8,8" in text
    assert "# mean: [0.485, 0.456, 0.406]" in text
    assert "# std: [0.229, 0.224, 0.225]" in text


@pytest.mark.parametrize("output", [[], ["-o", "r.yaml"]])
def test_init_as_json_is_json_alone(start, capfd, output):
    assert main(["recipe", "init", "arch:lenet", "--data", "mnist-5k", "--json", "-", *output]) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["schema"], result["recipe"]) == ("sslcli/recipe/1", "r.yaml" if output else "")
    assert result["text"].startswith("# Makes arch:lenet smaller")
    assert Path("r.yaml").exists() == bool(output)


def test_validate_gives_every_problem_as_json(recipe, capfd):
    recipe.write_text(GOOD.replace("epochs: 1", "epohcs: 1").replace("epochs: 2", "epochs: two"))
    assert main(["recipe", "validate", str(recipe), "--json", "-"]) == 3
    result = json.loads(capfd.readouterr().out)
    assert [problem["what"].split(":")[1] for problem in result["problems"]] == ["5", "6"]
    assert result["problems"][0]["hint"] == "did you mean 'epochs'?"
    assert result["failure"] == result["problems"][-1]
    recipe.write_text(GOOD)
    assert main(["recipe", "validate", str(recipe), "--json", "-"]) == 0
    assert json.loads(capfd.readouterr().out)["problems"] == []


def test_run_says_how_to_see_the_other_problems(recipe, capfd):
    recipe.write_text(GOOD.replace("epochs: 1", "epohcs: 1").replace("epochs: 2", "epochs: two"))
    assert main(["run", str(recipe)]) == 3
    error = capfd.readouterr().err
    assert error.endswith(
        f"did you mean 'epochs'?; for 1 more problem see `sslcli recipe validate {recipe}`\n"
    )


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("version: 1\n", "", "the key 'version' is missing; add it; `sslcli recipe init` writes"),
        ("version: 1", "version: 2", "'version' should be 1, not 2; write 1"),
        ("uses: train,", "uses: train, needs: none,", "which is no step; it is the first step, so leave"),
    ],
)
def test_every_problem_has_a_next_step(recipe, capfd, old, new, hint):
    recipe.write_text(GOOD.replace(old, new))
    assert main(["recipe", "validate", str(recipe)]) == 3
    assert hint in capfd.readouterr().err


def test_explain_fits_80_columns_and_says_no_default_of_what_was_set(recipe, capfd):
    steps = [
        "  - {id: first, uses: train, with: {epochs: 1, milestones: [2, 3]}}",
        "  - {id: second, uses: regularize, with: {target: {macs: 0.5}}}",
        "  - {id: onnx, uses: export, with: {lower: dense}}",
    ]
    recipe.write_text("\n".join([*GOOD.splitlines()[:4], *steps]) + "\n")
    assert main(["recipe", "explain", str(recipe)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines[1:])) <= 80
    assert not any(word in " ".join(lines) for word in ("default", "repeats"))


def test_the_schema_goes_to_a_file_too(tmp_path, capfd):
    assert main(["recipe", "schema", "-q", "--json", str(tmp_path / "schema.json")]) == 0
    assert json.loads((tmp_path / "schema.json").read_text()) == json.loads(capfd.readouterr().out)


def test_the_schema_knows_every_command_and_option(capfd):
    assert main(["recipe", "schema"]) == 0
    schema = json.loads(capfd.readouterr().out)
    choices = {choice["title"]: choice for choice in schema["properties"]["steps"]["items"]["oneOf"]}
    assert set(choices) == {"train", "regularize", "prune", "export", "bench", "inspect", "evaluate"}
    train = schema["$defs"]["with-train"]["properties"]
    assert train["epochs"]["default"] == 10
    assert {"batch_size", "seed", "arch"} <= set(train)
