"""Pruned models: the plan in the record brings the class back."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sslcli.checkpoint import Record, load, save
from sslcli.errors import InputError
from sslcli.graph.module import TracedModule
from sslcli.graph.trace import trace
from sslcli.models.lenet import LeNet
from sslcli.plan import Plan, apply_plan

FIRST = Plan(
    kept={
        "conv1.weight": {0: [0, 2, 5]},
        "conv1.bias": {0: [0, 2, 5]},
        "conv2.weight": {1: [0, 2, 5]},
    },
    shapes={"conv1.weight": [20, 1, 5, 5], "conv1.bias": [20], "conv2.weight": [50, 20, 5, 5]},
)
SECOND = Plan(
    kept={"conv1.weight": {0: [1, 2]}, "conv1.bias": {0: [1, 2]}, "conv2.weight": {1: [1, 2]}},
    shapes={"conv1.weight": [3, 1, 5, 5], "conv1.bias": [3], "conv2.weight": [50, 3, 5, 5]},
)


@pytest.fixture
def pruned():
    start = load("arch:lenet", seed=7)
    model = apply_plan(start.model, FIRST).eval()
    return SimpleNamespace(model=model, plan=FIRST, example=start.example, record=start.record)


@pytest.mark.parametrize("suffix", [".pt2", ".safetensors"])
def test_a_pruned_model_comes_back_as_its_class(suffix, pruned, tmp_path):
    loaded = load(save(pruned, tmp_path / f"small{suffix}"))
    assert type(loaded.model) is LeNet
    assert loaded.model.conv1.out_channels == 3
    assert torch.equal(loaded.model(*pruned.example), pruned.model(*pruned.example))
    assert Plan.from_json(loaded.record.plan).kept == FIRST.kept
    assert not loaded.notes


def test_plans_add_up_over_two_prunings(pruned, tmp_path):
    once = load(save(pruned, tmp_path / "once.pt2"))
    twice = SimpleNamespace(model=apply_plan(once.model, SECOND).eval(), plan=SECOND, example=once.example)
    loaded = load(save(twice, tmp_path / "twice.pt2", record=once.record))
    assert type(loaded.model) is LeNet
    assert Plan.from_json(loaded.record.plan).kept["conv1.weight"] == {0: [2, 5]}
    assert torch.equal(loaded.model(*once.example), twice.model(*once.example))


def test_a_pruned_graph_comes_back_as_the_class_too(pruned, tmp_path):
    graph = TracedModule(trace(pruned.model, pruned.example)).eval()
    result = SimpleNamespace(**{**vars(pruned), "model": graph})
    assert type(load(save(result, tmp_path / "small.pt2")).model) is LeNet


def test_a_graph_that_computes_something_else_stays_a_graph(pruned, tmp_path):
    class Doubled(LeNet):
        def forward(self, x):
            return 2 * super().forward(x)

    start = load("arch:lenet")
    model = Doubled()
    model.load_state_dict(start.model.state_dict())
    graph = TracedModule(trace(model, start.example)).eval()
    loaded = load(save(graph, tmp_path / "m.pt2", example=start.example, record=start.record))
    assert isinstance(loaded.model, TracedModule)
    assert torch.allclose(loaded.model(*start.example), 2 * start.model(*start.example), atol=1e-5)


def test_a_plan_that_removes_layers_leaves_the_graph_with_a_note(pruned, tmp_path):
    gone = Plan(kept={**FIRST.kept, "fc1.bias": None}, shapes=FIRST.shapes)
    path = save(SimpleNamespace(**{**vars(pruned), "plan": gone}), tmp_path / "small.pt2")
    loaded = load(path)
    assert isinstance(loaded.model, TracedModule)
    assert "since lenet could not be rebuilt" in loaded.notes[0]


PLANS = {
    "no plan": {"hello": 1},
    "indices out of range": {"kept": {"conv1.weight": {"0": [0, 99]}}},
    "another network": {"kept": {"layer9.weight": {"0": [0]}}, "shapes": {"layer9.weight": [4]}},
    "axis that is not there": {"kept": {"conv1.bias": {"3": [0]}}},
    "terabytes to add": {"kept": {}, "added": {"conv1.bias": [2**30, 2**30]}},
    "terabytes to probe": {
        "kept": {"conv1.bias": {"0": [0]}},
        "probe": {"inputs": [{"shape": [2**30, 2**30], "dtype": "float32", "high": 0}], "outputs": []},
    },
    "a dtype that is a module": {
        "kept": {"conv1.bias": {"0": [0]}},
        "probe": {"inputs": [{"shape": [2], "dtype": "nn", "high": 0}], "outputs": []},
    },
    "a probe without shapes": {"kept": {}, "probe": {"inputs": [{}], "outputs": []}},
}


@pytest.mark.parametrize("name", PLANS)
def test_hostile_plans_are_one_sentence(name, pruned, tmp_path):
    path = save(pruned, tmp_path / "small.safetensors")
    plan = PLANS[name] if name == "no plan" else {**Plan().to_json(), **PLANS[name]}
    record = dataclasses.replace(Record(arch="lenet"), plan=json.loads(json.dumps(plan)))
    save_file(load_file(path), path, metadata={"sslcli": record.to_json()})
    with pytest.raises(InputError) as caught:
        load(path)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
