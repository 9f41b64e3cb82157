"""Every step of every recipe is the command line that its record names."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from sslcli.cli.main import main
from sslcli.options.steps import settings
from sslcli.pipeline import jobs
from sslcli.pipeline.chain import _request
from sslcli.pipeline.command_line import _scalar, command_line, made
from sslcli.pipeline.request import Request
from sslcli.pipeline.results import EvaluateResult
from sslcli.recipe import load_recipe
from sslcli.recipe.document import parse_value

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_step_and_its_command_line_ask_for_the_same(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start.pth").touch()
    (tmp_path / "imagenet").mkdir()
    text = path.read_text()
    named = "weights: " in text and "weights: null" not in text
    recipe = load_recipe(path, ["model.weights=start.pth"] if named else [])
    asked = []
    for step in recipe.steps:
        request = _request(recipe, step, Path("runs"))
        monkeypatch.setitem(jobs.JOBS, step.uses, lambda got, *_: asked.append(got))
        step_options = request.settings.step
        read = [getattr(step_options, name, None) for name in ("baseline", "teacher")]
        for source in (request.source, *request.others, *read):
            if source is not None and not source.startswith("arch:"):
                Path(source).parent.mkdir(parents=True, exist_ok=True)
                Path(source).touch()
        words = shlex.split(command_line(request))
        assert words[0] == "sslcli"
        main(words[1:])
        (got,) = asked
        asked.clear()
        assert (got.command, got.output) == (request.command, request.output)
        assert got.settings.step == without_baseline(request.settings.step)
        assert (got.settings.model, got.settings.run) == (request.settings.model, request.settings.run)
        if jobs_data(step.uses):
            assert got.settings.data == request.settings.data
        assert models_of(got) == models_of(request)


def jobs_data(uses):
    from sslcli.options.steps import STEPS

    return STEPS[uses].data != "no"


def without_baseline(options):
    return options.model_copy(update={"baseline": None}) if hasattr(options, "baseline") else options


def models_of(request):
    base = getattr(request.settings.step, "baseline", None)
    named = [request.source, *request.others]
    return [base, *(name for name in named if name != base)] if base else named


def test_a_result_says_the_command_line_its_options_and_its_seed():
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "demo.yaml", ["seed=3"])
    request = _request(recipe, recipe.step("sparse"), Path("runs"))
    signed = made(request)
    assert (signed.command, signed.seed) == (command_line(request), 3)
    assert signed.options["size_weights"] is False
    assert {"name": "shape", "match": "conv1", "strength": 1.5e-2} in signed.options["structures"]
    assert json.loads(json.dumps(signed.options)) == signed.options


def test_data_that_say_what_an_architecture_takes_are_part_of_the_command_line():
    chosen = settings("export", {"arch": "net.py:make_net", "data": "data.py:make_data"})
    request = Request("export", "weights.pth", Path("dense.onnx"), chosen)
    assert "--data data.py:make_data" in command_line(request)
    shaped = replace(chosen, model=chosen.model.model_copy(update={"input_shape": (1, 8, 8)}))
    assert "--data" not in command_line(replace(request, settings=shaped))


def test_every_job_signs_its_result(monkeypatch):
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "demo.yaml")
    request = _request(recipe, recipe.step("dense"), Path("runs"))
    plain = EvaluateResult("model.pt2", "data", "test", 10, {}, 0.0)
    signed = jobs._signed(lambda *_: plain)(request)
    assert signed.made.command == command_line(request)
    assert all(hasattr(job, "__wrapped__") for job in jobs.JOBS.values())


@pytest.mark.parametrize("value", [None, "18", "yes", "#x", 1e-5, 1e20, 18, True, "abc", [1, 2], "a b"])
def test_a_value_is_written_so_that_it_is_read_as_itself(value):
    assert parse_value(_scalar(value)) == value


def test_words_that_a_shell_would_take_apart_are_quoted():
    recipe = load_recipe(RECIPES[0])
    request = replace(_request(recipe, recipe.steps[0], Path("runs")), source="my model.pt2")
    assert "'my model.pt2'" in command_line(request)


def test_the_structures_of_prune_are_names_on_the_command_line_too():
    chosen = settings("prune", {"threshold": 0.1, "structures": ["filter", "shape"], "keep": ["conv1"]})
    words = command_line(Request("prune", "sparse.pt2", Path("small.pt2"), chosen))
    assert "--structure filter,shape" in words
    assert "--keep conv1" in words


def test_shares_are_flags_with_globs_on_the_command_line():
    chosen = settings("prune", {"shares": {"filter": {"*": 0.3, "conv1": 0.5}, "shape": 0.25}})
    words = command_line(Request("prune", "sparse.pt2", Path("small.pt2"), chosen)).split()
    given = [words[place + 1] for place, word in enumerate(words) if word == "--share"]
    assert given == ["filter=0.3", "filter=0.5@conv1", "shape=0.25"]


def test_a_recipe_may_prune_shares_of_layers(tmp_path):
    text = """\
version: 1
model: {arch: lenet}
data: {name: mnist-5k}
steps:
  - {id: small, uses: prune, with: {shares: {filter: {conv1: 0.25, conv2: 0.5}, shape: {conv2: 0.6}}}}
"""
    (tmp_path / "recipe.yaml").write_text(text)
    assert main(["run", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "run"), "-q"]) == 0
    record = json.loads((tmp_path / "run" / "small" / "step.json").read_text())
    layers = {layer["name"]: layer for layer in record["result"]["shape"]["layers"]}
    assert (layers["conv1"]["filters"], layers["conv2"]["filters"]) == (15, 25)
    assert layers["conv2"]["columns"] == 200  # 60 % of 500 gone, those of removed filters among them


def test_a_recipe_may_prune_some_structures_under_a_threshold(tmp_path):
    text = """\
version: 1
model: {arch: lenet}
data: {name: mnist-5k}
steps:
  - {id: small, uses: prune, with: {threshold: 0.0448, structures: [filter], keep: [fc1]}}
"""
    (tmp_path / "recipe.yaml").write_text(text)
    assert main(["run", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "run"), "-q"]) == 0
    record = json.loads((tmp_path / "run" / "small" / "step.json").read_text())
    filters = {layer["name"]: layer["filters"] for layer in record["result"]["shape"]["layers"]}
    assert 0 < filters["conv2"] < 50  # about half of rows that are drawn with a root mean square of 0.0448
    assert filters["fc1"] == 500
