"""Every recipe that ships can be read, and its globs match the network that it is for."""

import json
from pathlib import Path

import pytest
import torch

from sslcli.graph.normalise import normalise
from sslcli.graph.slots import analyse
from sslcli.graph.trace import trace
from sslcli.models.create import create, input_shape
from sslcli.pipeline import chain
from sslcli.recipe import load_recipe
from sslcli.targeting.groups import weighted_sets

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(path.relative_to(RECIPES).as_posix() for path in RECIPES.rglob("*.yaml"))
PAPER = {
    *("alexnet", "alexnet-filter2d", "convnet", "convnet-row3", "lenet-filters", "lenet-shapes", "mlp"),
    *("resnet20-depth", "resnet32-depth"),
}


def read(name, tmp_path, *overrides):
    """The recipe, with an empty file where it names a checkpoint."""
    path = RECIPES / name
    weights = next((line for line in path.read_text().splitlines() if "weights: " in line), "")
    given = [] if "weights: null" in weights else [f"model.weights={tmp_path / 'start.pth'}"]
    (tmp_path / "start.pth").touch()
    return load_recipe(path, [*given, *overrides])


def test_every_table_of_the_paper_has_a_recipe():
    assert {Path(name).stem for name in NAMES if name.startswith("paper/")} >= PAPER


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_good_and_its_structures_are_found(name, tmp_path):
    recipe = read(name, tmp_path)
    steps = [step for step in recipe.steps if step.uses == "regularize"]
    arch = recipe.model.arch
    if arch == "caffenet" or not steps:
        return  # traced in the run of its recipe
    example = (torch.zeros(2, *input_shape(arch)),)
    structure = analyse(normalise(trace(create(arch).eval(), example)))
    for step in steps:
        options = step.settings.step
        found = weighted_sets(structure, options.structures, options.size_weights, options.depth_unit)
        assert bool(found) or bool(options.target)


@pytest.mark.parametrize("name", ["alexnet", "alexnet-filter2d"])
@pytest.mark.slow
def test_alexnet_runs_on_a_folder_in_the_layout_of_imagenet(name, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for split, count in (("train", 4), ("val", 2)):
        for number, wnid in enumerate(("n01440764", "n01443537")):
            folder = tmp_path / "imagenet" / split / wnid
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(0, 256, (260, 240, 3), dtype=torch.uint8)
                pixels[..., number] = 255
                image.fromarray(pixels.numpy()).save(folder / f"ILSVRC2012_{split}_{index:08d}.JPEG")
    changes = [
        "model.weights=null",
        "model.arch_arg.classes=2",
        f"data.name=imagefolder:{tmp_path / 'imagenet'}",
        "data.batch_size=4",
        "data.workers=0",
        *(f"steps.sparse.{key}" for key in ("epochs=2", "lr=0.0001")),
        *(f"steps.polished.{key}" for key in ("epochs=1", "lr=0.0001")),
        "steps.onnx.lower=dense",
    ]
    changes += ["steps.sparse.strength_milestones=[1, 1.5]"] if name == "alexnet" else []
    recipe = load_recipe(RECIPES / "paper" / f"{name}.yaml", changes)
    result = chain.run(recipe, tmp_path / "run")
    assert [step.state for step in result.steps] == ["run"] * 4
    record = json.loads((tmp_path / "run" / "sparse" / "step.json").read_text())["result"]
    kinds = {"alexnet": {"filter", "shape"}, "alexnet-filter2d": {"filter2d"}}[name]
    assert {name.partition(":")[0] for name in record["strengths"]} == kinds
    groups = {kind: all_ for kind, (_, all_) in record["zero_groups"].items()}
    if name == "alexnet":
        assert groups["filter"] == 384 + 384
        # columns of each of a convolution's groups are groups of their own
        assert groups["shape"] == 2 * 48 * 25 + 256 * 9 + 2 * 192 * 9 + 2 * 192 * 9
    else:
        assert groups["filter2d"] == 96 * 3 + 256 * 48 + 384 * 256 + 384 * 192 + 256 * 192
    assert record["metrics"]["validation"]["accuracy"] in {0.0, 0.25, 0.5, 0.75, 1.0}
