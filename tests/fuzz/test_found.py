"""What fuzzing has found, each once, so that it stays found."""

import numpy as np
import pytest
from network import network
from onnx import numpy_helper

from sslcli.errors import ModelError, PlanError
from sslcli.lowering.files import read_onnx
from sslcli.lowering.sites import LinearSite, find_sites
from sslcli.plan import Plan
from sslcli.recipe.read import recipe_problems


def no_version(model):
    model.ClearField("ir_version")


def no_groups(model):
    next(found for found in model.graph.node[3].attribute if found.name == "group").i = 0


@pytest.mark.parametrize("old", [b"conv2", b"relu", b"Relu", b"w2", b"pads"])
def test_onnx_with_a_name_that_is_no_text(old, tmp_path):
    content = network().SerializeToString()
    assert old in content
    (tmp_path / "m.onnx").write_bytes(content.replace(old, b"\x80" + old[1:]))
    with pytest.raises(ModelError, match="UTF-8"):
        read_onnx(tmp_path / "m.onnx")


def groups_that_do_not_divide(model):
    next(found for found in model.graph.node[3].attribute if found.name == "group").i = 3


def a_weight_without_axes(model):
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
    weight.CopyFrom(numpy_helper.from_array(np.float32(1), "w2"))


@pytest.mark.parametrize("change", [no_version, no_groups, groups_that_do_not_divide, a_weight_without_axes])
def test_onnx_that_is_not_what_it_says(change, tmp_path):
    model = network()
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError) as caught:
        read_onnx(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "taken"), [((5,), True), ((1, 5), True), ((1,), True), ((4,), False), ((3, 5), False)]
)
def test_a_linear_layer_is_left_alone_where_its_bias_is_none_per_output(shape, taken):
    model = network()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b3")
    bias.CopyFrom(numpy_helper.from_array(np.ones(shape, np.float32), "b3"))
    assert any(isinstance(site, LinearSite) for site in find_sites(model).values()) == taken


def test_the_network_is_sound_before(tmp_path):
    (tmp_path / "m.onnx").write_bytes(network().SerializeToString())
    assert len(read_onnx(tmp_path / "m.onnx").graph.node) == 8


def test_a_plan_with_a_line_break_for_an_axis():
    with pytest.raises(PlanError) as caught:
        Plan.from_json({"schema": "sslcli/plan/1", "kept": {"conv1.bias": {"\n": [0]}}, "shapes": {}})
    assert "\n" not in str(caught.value)


def test_a_recipe_with_a_line_break_in_a_key(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text('version: 1\n"se\\ned": 3\nmodel: {arch: lenet}\nsteps: []\n')
    _, problems = recipe_problems(path)
    assert problems
    assert all("\n" not in str(problem) for problem in problems)
