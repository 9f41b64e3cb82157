import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

from sslcli import models
from sslcli.errors import ModelError
from sslcli.options import names

FACTORIES = """
import torch

def small(width=4, name="plain"):
    model = torch.nn.Sequential(torch.nn.Linear(3, width))
    model.name_given = name
    return model

def text():
    return "no module"

def broken():
    raise RuntimeError("the factory's own words")

LIMIT = 3
"""


@pytest.fixture
def factories(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(FACTORIES)
    return path


def test_the_names_that_recipes_know_are_the_built_in_ones():
    assert set(models.ARCHITECTURES) == set(names.ARCHITECTURES)


def test_same_seed_same_weights_other_seed_other_weights():
    one, two, three = (models.create("lenet", seed=s).conv1.weight for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_random_state_of_the_caller_is_restored():
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    models.create("mlp", seed=9)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert before[2] == random.getstate()


def test_unknown_name_gives_the_nearest_names():
    with pytest.raises(ModelError, match="did you mean caffenet") as caught:
        models.create("caffenett")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_a_missing_package_names_the_extra(package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=rf"sslcli\[{package}\]"):
        models.create(f"{package}:anything")


def test_arguments_are_read_as_yaml_scalars(factories):
    model = models.create(f"{factories}:small", {"width": "7", "name": "'12'"})
    assert model[0].out_features == 7
    assert model.name_given == "12"


def test_build_takes_arguments_as_they_are(factories):
    assert models.build(f"{factories}:small", {"name": "12"}).name_given == "12"


def test_module_reference(factories, monkeypatch):
    monkeypatch.chdir(factories.parent)
    assert isinstance(models.create("nets:small"), nn.Sequential)
    assert str(factories.parent) not in sys.path


def test_file_factory_imports_its_neighbour(factories):
    (factories.parent / "neighbour_of_nets.py").write_text("WIDTH = 11\n")
    user = factories.parent / "user.py"
    user.write_text("import torch\ndef net():\n  import neighbour_of_nets\n  return torch.nn.ReLU()\n")
    assert isinstance(models.create(f"{user}:net"), nn.ReLU)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{}:missing", "no attribute 'missing'.*small"),
        ("{}:text", "returned a str, not a torch.nn.Module"),
        ("{}:broken", "RuntimeError: the factory's own words"),
        ("{}:LIMIT", "is an int, not a factory"),
        ("nowhere/{}x.py:small", "there is no file"),
        ("no_such_package.nets:small", "there is no module"),
        ("json:", "not a code reference"),
    ],
)
def test_factory_errors_say_what_and_where(factories, reference, message):
    with pytest.raises(ModelError, match=message):
        models.create(reference.format(factories))


def test_a_file_that_does_not_import_names_its_error(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def f(:\n")
    with pytest.raises(ModelError, match="SyntaxError"):
        models.create(f"{path}:f")


def test_a_module_with_a_missing_requirement_names_it(tmp_path, monkeypatch):
    (tmp_path / "needy_nets.py").write_text("import absent_requirement_xyz\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="needs 'absent_requirement_xyz'"):
        models.create("needy_nets:f")


def test_wrong_argument_is_named():
    with pytest.raises(ModelError, match=r"making lenet\(width=3\) failed"):
        models.create("lenet", {"width": 3})


@pytest.mark.parametrize(
    ("arch", "kind"),
    [("lenet", "builtin"), ("torchvision:resnet18", "torchvision"), ("timm:vgg", "timm"), ("a.b:c", "code")],
)
def test_kind(arch, kind):
    assert models.kind(arch) == kind


def test_input_shape_is_known_for_built_in_names_only():
    assert models.input_shape("caffenet") == (3, 227, 227)
    assert models.input_shape("package.module:factory") is None


@pytest.mark.parametrize(("package", "name"), [("torchvision", "resnet18"), ("timm", "resnet18")])
def test_packages_where_they_are_installed(package, name):
    pytest.importorskip(package)
    model = models.create(f"{package}:{name}", {"num_classes": "7"})
    assert model.fc.out_features == 7
    assert models.input_shape(f"{package}:{name}") == (3, 224, 224)
    with pytest.raises(ModelError, match="did you mean"):
        models.create(f"{package}:resnet1888")
