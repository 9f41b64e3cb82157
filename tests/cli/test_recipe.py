import json

import pytest

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


def test_init_of_weights_keeps_odd_names(tmp_path, capfd):
    assert main(["recipe", "init", "my weights: 1.pth", "--arch", "mlp", "--data", "imagefolder:a b"]) == 0
    text = capfd.readouterr().out
    assert 'weights: "my weights: 1.pth"' in text
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["recipe", "explain", str(tmp_path / "mine.yaml")]) == 0
    assert "starts from the weights my weights: 1.pth, on imagefolder:a b" in capfd.readouterr().out


def test_init_of_weights_compares_with_the_weights_as_they_are(tmp_path):
    path = tmp_path / "mine.yaml"
    assert main(["recipe", "init", "w.pth", "--arch", "mlp", "--data", "mnist-5k", "-o", str(path)]) == 0
    steps = load_recipe(path).steps
    assert [step.id for step in steps] == ["baseline", "before", "sparse", "small", "onnx", "after", "speed"]
    needs = {step.id: step.needs for step in steps}
    assert needs["sparse"] == ()  # the recipe's own model, not the export of it
    assert set(needs["speed"]) == {"onnx", "baseline"}
    assert steps[2].settings.step.target == {"macs": 0.5}
    assert all(line.lstrip().startswith("#") for line in path.read_text().splitlines()[:3])


def test_the_schema_knows_every_command_and_option(capfd):
    assert main(["recipe", "schema"]) == 0
    schema = json.loads(capfd.readouterr().out)
    choices = {choice["title"]: choice for choice in schema["properties"]["steps"]["items"]["oneOf"]}
    assert set(choices) == {"train", "regularize", "prune", "export", "bench", "inspect", "evaluate"}
    train = schema["$defs"]["with-train"]["properties"]
    assert train["epochs"]["default"] == 10
    assert {"batch_size", "seed", "arch"} <= set(train)
