from __future__ import annotations

import json
import math

import numpy as np
import pytest
from onnx import TensorProto, helper

from sslcli.bench import compare, to_markdown
from sslcli.bench.outputs import largest, output_notes, relative_difference, set_apart
from sslcli.bench.results import BenchedModel, Comparison

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("base", "other", "expected"),
    [
        ([[1.0, -4.0]], [[1.5, -4.0]], 0.125),
        ([[1.0, NAN, INF, -INF]], [[1.0, NAN, INF, -INF]], 0.0),
        ([[2.0, NAN, INF]], [[3.0, NAN, INF]], 0.5),
        ([[1.0, 2.0]], [[1.0, NAN]], math.inf),
        ([[1.0, NAN]], [[1.0, 2.0]], math.inf),
        ([[1.0, INF]], [[1.0, -INF]], math.inf),
        ([[1.0, INF]], [[1.0, NAN]], math.inf),
        ([[5.0], [NAN]], [[5.0], [1.0]], math.inf),
        ([[0.0, 0.0]], [[0.0, 0.25]], 0.25),
        ([[1.7e308]], [[-1.7e308]], math.inf),
        ([[]], [[]], 0.0),
        ([[1.0]], [[1.0], [2.0]], None),
        ([[1.0], [2.0]], [[1.0]], None),
        ([[1.0]], [[1.0, 2.0]], None),
    ],
)
def test_difference_is_over_the_largest_number_of_the_base(base, other, expected):
    arrays = ([np.array(one, np.float64) for one in side] for side in (base, other))
    assert relative_difference(*arrays) == expected


def test_the_largest_of_several_providers_counts():
    assert largest([0.1, 0.3]) == 0.3
    assert largest([0.1, None]) is None


def said(difference: float | None) -> list[str]:
    base, other = (BenchedModel(label, 1, "") for label in "AB")
    return output_notes([base, set_apart(other, difference)])


def test_models_that_compute_something_else_are_told():
    assert said(0.0) == said(1e-3) == []
    assert said(0.0123)[0].startswith("outputs of B differ from those of A by up to 1.2 % of the largest")
    assert "by up to 49 % of" in said(0.49)[0]
    assert "by up to 1,230 % of" in said(12.3)[0]
    assert said(None) == [
        "outputs of B cannot be compared with those of A: their number or their shapes differ"
    ]
    assert said(math.inf) == [
        "outputs of B cannot be compared with those of A: "
        "one holds NaN or infinity where the other holds a number"
    ]


def scaled(*factors: float) -> bytes:
    """A model with one output for each factor: the input times it."""
    nodes, constants, outputs = [], [], []
    for number, factor in enumerate(factors):
        nodes.append(helper.make_node("Mul", ["x", f"f{number}"], [f"y{number}"]))
        constants.append(helper.make_tensor(f"f{number}", TensorProto.FLOAT, [], [factor]))
        outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, None))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_a_comparison_tells_it_in_notes_and_in_standard_json():
    models = [scaled(1.0), scaled(1.0), scaled(1.5), scaled(math.nan), scaled(1.0, 2.0)]
    found = compare(models[0], models[1:], budget_s=0.01, warmup=1)
    assert [model.difference for model in found.models] == [None, 0.0, pytest.approx(0.5), None, None]
    assert [model.incomparable for model in found.models] == [None, None, None, "not finite", "other shapes"]
    about = [note for note in found.notes if note.startswith("outputs of")]
    assert [note.split()[2:4] for note in about] == [["model", number] for number in "234"]
    assert all(f"- {note}" in to_markdown(found).splitlines() for note in about)
    written = found.to_json()
    json.loads(written, parse_constant=pytest.fail)
    assert Comparison.from_json(written) == found
