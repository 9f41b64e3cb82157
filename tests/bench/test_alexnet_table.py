from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from sslcli.lowering.select import Decision

SHAPES = {
    "conv1": (96, 3, 11, 11),
    "conv2": (256, 48, 5, 5),
    "conv3": (384, 256, 3, 3),
    "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3),
}


@pytest.fixture(scope="module")
def table():
    path = Path(__file__).parents[2] / "benchmarks" / "alexnet_table.py"
    spec = importlib.util.spec_from_file_location("alexnet_table", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("placement", ["random", "clustered"])
@pytest.mark.parametrize("layer", SHAPES)
def test_patterns_have_the_papers_live_rows_and_columns(table, layer, placement):
    shape = SHAPES[layer]
    live = table.live_groups(layer, shape, 2)
    mask = table.zero_pattern(shape, live, placement, np.random.default_rng(0))
    groups = mask.reshape(len(live), shape[0] // len(live), -1)
    found = [(int(part.any(1).sum()), int(part.any(0).sum())) for part in groups]
    assert found == live
    assert all(part.sum() == rows * columns for part, (rows, columns) in zip(groups, live, strict=True))


def test_column_sparsity_is_the_papers(table):
    percent = {2: (0, 63.2, 76.9, 84.7, 80.7), 5: (0, 20.9, 39.7, 39.7, 24.6)}
    for pattern, expected in percent.items():
        for (layer, shape), share in zip(SHAPES.items(), expected, strict=True):
            columns = [columns for _, columns in table.live_groups(layer, shape, pattern)]
            whole = len(columns) * int(np.prod(shape[1:]))
            assert 100 * (1 - sum(columns) / whole) == pytest.approx(share, abs=0.15)


def test_clustered_columns_keep_centres_and_whole_channels(table):
    mask = table.zero_pattern((8, 256, 3, 3), [(8, 532)], "clustered", np.random.default_rng(0))
    taps = mask.any(0).reshape(256, 9)
    assert taps[:, 4].sum() > 2 * taps[:, 0].sum()
    assert (~taps.any(1)).sum() > 256 * 0.3
    spread = table.zero_pattern((8, 256, 3, 3), [(8, 532)], "random", np.random.default_rng(0))
    assert (~spread.any(0).reshape(256, 9).any(1)).sum() < 256 * 0.2


def test_limits_are_counted_by_hand(table):
    first = np.ones((4, 1, 1, 1), np.bool_)
    first[[0, 3]] = False
    # Two groups that read channels 0 and 1, 2 and 3; of each the one that reads a dead filter goes.
    second = np.zeros((4, 2, 1, 2), np.bool_)
    second[0, 0], second[0, 1, 0, 0] = True, True  # one row, three columns; two of them read channel 0
    second[2, 0], second[3, 0] = True, True  # two rows, two columns, all of them read channel 2
    third = np.ones((2, 4, 1, 1), np.bool_)
    masks, groups = {"a": first, "b": second, "c": third}, {"a": 1, "b": 2, "c": 1}
    found = table.arithmetic_limits(masks, groups)
    assert [(limits.own, limits.dead_inputs_gone) for limits in found.values()] == [
        (4 / 2, 4 / 2),
        (16 / (3 + 4), 16 / (1 + 4)),
        (8 / 8, 8 / (2 * 3)),
    ]
    alone = table.arithmetic_limits(masks, groups, "live").values()
    assert [limits.dead_inputs_gone for limits in alone] == [limits.own for limits in found.values()]


def test_a_filter_that_reads_dead_inputs_only_is_dead_for_the_next_layer(table):
    first, second = np.array([True, False]).reshape(2, 1, 1, 1), np.eye(2, dtype=np.bool_).reshape(2, 2, 1, 1)
    masks = {"a": first, "b": second, "c": np.ones((3, 2, 1, 1), np.bool_)}
    found = table.arithmetic_limits(masks, dict.fromkeys("abc", 1))
    assert found["b"].dead_inputs_gone == 4
    assert found["c"].dead_inputs_gone == 2


def test_a_layer_without_living_inputs_costs_nothing(table):
    masks = {"a": np.zeros((1, 1, 1, 1), np.bool_), "b": np.ones((1, 1, 1, 1), np.bool_)}
    found = table.arithmetic_limits(masks, {"a": 1, "b": 1})
    assert (found["b"].own, found["b"].dead_inputs_gone) == (1, float("inf"))


def test_all_that_was_done_to_a_layer_is_told(table):
    done = [("conv3", "drop-channels-16"), ("conv4", "dense"), ("conv3", "shift"), ("conv5", "im2col")]
    decisions = [Decision(layer, "conv", (), 1.0, chosen) for layer, chosen in done]
    found = [table.chosen_forms(decisions, layer) for layer in ("conv2", "conv3", "conv4", "conv5")]
    assert found == ["dense", "drop-channels-16 + shift", "dense", "im2col"]


def test_biases_are_zero_or_live_and_leave_the_zeros_alone(table):
    found = {}
    for biases in ("zero", "live"):
        dense, limits = table.sparse_caffenet(5, "random", 0, biases)
        graph = onnx.load_from_string(dense).graph
        tensors = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        convolutions = {node.name: node for node in graph.node if node.op_type == "Conv"}
        assert convolutions.keys() == SHAPES.keys()
        given = [tensors[node.input[2]] for node in convolutions.values() if len(node.input) > 2]
        if biases == "zero":
            assert not any(bias.any() for bias in given)
        else:
            assert len(given) == len(SHAPES)
            assert all((bias > 0).all() for bias in given)
        found[biases] = [tensors[f"{layer}.weight"] != 0 for layer in SHAPES], limits
    for one, two in zip(found["zero"][0], found["live"][0], strict=True):
        np.testing.assert_array_equal(one, two)
    for layer in SHAPES:
        share = 1 - table.COLUMN_SPARSITY_5[layer] / 100
        assert found["live"][1][layer].own == pytest.approx(1 / share, rel=2e-3)


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="CUDA is here")
def test_a_missing_provider_is_one_sentence_and_its_exit_code(table, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["alexnet_table.py", "--providers", "cpu", "cuda"])
    assert table.main() == 8
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ONNX Runtime ")
    assert "pip install 'sslcli[gpu]'" in err
