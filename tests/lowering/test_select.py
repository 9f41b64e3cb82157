from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sslcli.bench.inputs import RunSettings
from sslcli.errors import UsageError, VerificationError
from sslcli.lowering import check, forms, lower, measure, select
from sslcli.lowering.fragments import Builder, Fragment
from sslcli.lowering.regions import region, region_key
from sslcli.lowering.sites import Site
from sslcli.lowering.timings import Timed
from sslcli.options.export import FORMS

SETTINGS = RunSettings(budget_s=0.02, min_blocks=2, warmup=1)


def chain(seed: int = 0, *, first: str = "first") -> onnx.ModelProto:
    """conv 3x3 with dead rows and columns -> Relu -> dense conv -> flatten -> Gemm with dead columns."""
    random = np.random.default_rng(seed)
    weight = random.standard_normal((8, 4, 3, 3)).astype(np.float32)
    mask = np.random.default_rng(7).random((4, 3, 3)) < 0.4
    weight *= mask
    weight[::2] = 0
    last = random.standard_normal((5, 8 * 16)).astype(np.float32)
    last[:, ::3] = 0
    constants = {
        f"{first}.weight": weight,
        f"{first}.bias": np.zeros(8, np.float32),
        "second.weight": random.standard_normal((8, 8, 3, 3)).astype(np.float32),
        "last.weight": last,
        "last.bias": np.ones(5, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", f"{first}.weight", f"{first}.bias"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second.weight"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "last.weight", "last.bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def pretend(chosen: str) -> object:
    """A measurement in which one form wins."""

    def measured(models: dict[str, onnx.ModelProto], settings: RunSettings) -> dict[str, Timed]:
        speed = {name: 2.0 if name == chosen else 0.5 for name in models} | {"dense": 1.0}
        return {name: Timed(1 / value, value, value, value) for name, value in speed.items()}

    return measured


@pytest.fixture
def few_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two forms only, since every form costs two sessions."""
    monkeypatch.setattr(forms, "CONV_FORMS", {name: forms.CONV_FORMS[name] for name in ("compact", "shift")})


@pytest.fixture
def keep_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave dead channels to the forms."""
    monkeypatch.setattr(select, "_BLOCKS", ())


def outputs(model: onnx.ModelProto) -> list[np.ndarray]:
    return check.run(model, check.fresh_feeds(chain(), batch_size=2, seed=5))


@pytest.mark.parametrize("choice", forms.names())
def test_a_named_form_is_used_wherever_it_applies(choice: str) -> None:
    given = chain()
    lowered = lower(given, choice=choice)
    assert [decision.layer for decision in lowered.decisions] == ["first", "last"]
    applied = [decision.layer for decision in lowered.decisions if decision.chosen == choice]
    remaining = {node.name for node in lowered.model.graph.node}
    assert all(layer not in remaining for layer in applied)
    assert check.worst_error(outputs(given), outputs(lowered.model)) < 1e-5


def test_dense_changes_nothing_but_names() -> None:
    lowered = lower(chain(), choice="dense")
    assert [node.op_type for node in lowered.model.graph.node] == ["Conv", "Relu", "Conv", "Flatten", "Gemm"]
    assert lowered.decisions == ()


def test_options_know_every_form() -> None:
    assert set(FORMS) == set(forms.names())


def test_an_unknown_form_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="shfit"):
        lower(chain(), choice="shfit")


def test_auto_keeps_what_measured_fastest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(select, "measure", pretend("shift"))
    monkeypatch.setattr(select, "_whole_ratio", lambda *_: select.Ratio(1.5, 1.4, 1.6))
    given = chain()
    lowered = lower(given, settings=SETTINGS, cache=False)
    assert {d.layer: d.chosen for d in lowered.decisions} == {"first": "shift", "last": "dense"}
    assert {"first", "second", "last"} & {n.name for n in lowered.model.graph.node} == {"second", "last"}
    assert check.worst_error(outputs(given), outputs(lowered.model)) < 1e-5
    assert lowered.speedup is not None


def test_a_winner_that_is_slower_in_the_layer_alone_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(models: dict[str, onnx.ModelProto], settings: RunSettings) -> dict[str, Timed]:
        is_alone = len(models["dense"].graph.node) == 1
        speed = {"dense": 1.0, "shift": 0.4 if is_alone else 3.0, "compact": 2.0}
        return {name: Timed(1 / speed[name], *(3 * [speed[name]])) for name in models if name in speed}

    monkeypatch.setattr(select, "measure", measured)
    monkeypatch.setattr(select, "_whole_ratio", lambda *_: select.Ratio(1.5, 1.4, 1.6))
    first = lower(chain(), settings=SETTINGS, cache=False).decisions[0]
    assert (first.layer, first.chosen) == ("first", "compact")
    assert first.refused["shift"] == "0.40 times as fast as dense in the layer alone"
    assert first.timings["shift"].speedup == 0.4


def test_a_layer_that_reads_no_batch_axis_is_timed_alone_too(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((6, 16)).astype(np.float32)
    weight[:, ::2] = 0
    values = {"w": weight, "v": random.standard_normal((3, 6)).astype(np.float32), "s": np.array([-1, 16])}
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["r"]),
        helper.make_node("Gemm", ["r", "w"], ["g"], "sparse", transB=1),
        helper.make_node("Relu", ["g"], ["a"]),
        helper.make_node("Gemm", ["a", "v"], ["y"], "last", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    given = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    real, calls = select.measure, []

    def measured(models: dict[str, onnx.ModelProto], settings: RunSettings) -> dict[str, Timed]:
        calls.append(settings.batch_size)
        found = real(models, settings)
        if len(calls) == 1:
            return {name: Timed(1.0, 2.0, 2.0, 2.0) if name != "dense" else found[name] for name in found}
        return {name: Timed(1.0, 1.5, 1.5, 1.5) for name in found}

    monkeypatch.setattr(select, "measure", measured)
    monkeypatch.setattr(select, "_whole_ratio", lambda *_: select.Ratio(1.5, 1.4, 1.6))
    decisions = lower(given, settings=SETTINGS, cache=False).decisions
    assert [d.chosen != "dense" for d in decisions if d.layer == "sparse"] == [True]
    assert calls[-1] is None


@pytest.mark.usefixtures("few_forms", "keep_channels")
def test_auto_goes_back_to_dense_where_the_whole_model_got_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "measure", pretend("compact"))
    monkeypatch.setattr(select, "_whole_ratio", lambda *_: select.Ratio(0.8, 0.7, 0.9))
    lowered = lower(chain(), settings=SETTINGS, cache=False)
    assert [decision.chosen for decision in lowered.decisions] == ["dense", "dense"]
    assert [node.op_type for node in lowered.model.graph.node] == ["Conv", "Relu", "Conv", "Flatten", "Gemm"]
    assert lowered.speedup is None


@pytest.mark.usefixtures("keep_channels")
def test_really_measured_selection_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLCLI_CACHE_DIR", str(tmp_path))
    given = chain()
    lowered = lower(given, settings=SETTINGS)
    assert check.worst_error(outputs(given), outputs(lowered.model)) < 1e-5
    first = lowered.decisions[0]
    assert set(first.timings) == {
        "dense",
        *forms.candidates(select.find_sites(select.clean(chain()))["first"]),
    }
    assert not first.from_cache


@pytest.mark.usefixtures("few_forms", "keep_channels")
def test_timings_are_remembered_for_the_same_pattern_whatever_the_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLCLI_CACHE_DIR", str(tmp_path))
    once = lower(chain(0), settings=SETTINGS)
    again = lower(chain(1, first="renamed"), settings=SETTINGS)
    assert [decision.from_cache for decision in once.decisions] == [False, False]
    assert again.decisions[0].from_cache
    assert again.decisions[0].timings == once.decisions[0].timings


@pytest.mark.usefixtures("few_forms", "keep_channels")
def test_a_damaged_cache_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLCLI_CACHE_DIR", str(tmp_path))
    lower(chain(), settings=SETTINGS)
    for file in (tmp_path / "timings").iterdir():
        file.write_text("{")
    assert not lower(chain(), settings=SETTINGS).decisions[0].from_cache


@pytest.mark.usefixtures("keep_channels")
def test_a_candidate_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(site: Site) -> dict[str, Fragment]:
        builder = Builder(site.name, (site.input, site.output))
        builder.conv(site.input, site.weight * 1.01, None, pads=[(1, 1), (1, 1)])
        return {"wrong": builder.finish(site.output)}

    monkeypatch.setattr(forms, "candidates", lambda site: wrong(site) if site.name == "first" else {})
    decision = lower(chain(), settings=SETTINGS, cache=False).decisions[0]
    assert decision.chosen == "dense"
    assert list(decision.refused) == ["wrong"]


def test_a_form_forced_although_wrong_is_a_verification_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(site: Site, name: str) -> Fragment | None:
        if site.name != "first":
            return None
        builder = Builder(site.name, (site.input, site.output))
        builder.conv(site.input, site.weight * 1.01, None, pads=[(1, 1), (1, 1)])
        return builder.finish(site.output)

    monkeypatch.setattr(forms, "candidate", wrong)
    with pytest.raises(VerificationError):
        lower(chain(), choice="shift")


def test_the_given_model_is_left_as_it_was() -> None:
    given = chain()
    before = given.SerializeToString(deterministic=True)
    lower(given, choice="shift")
    assert given.SerializeToString(deterministic=True) == before


def test_a_region_reaches_to_the_neighbours_that_fix_the_layout() -> None:
    tidy = select.clean(chain())
    piece = region(tidy, "first", SETTINGS)
    assert [node.op_type for node in piece.graph.node] == ["Conv", "Relu", "Conv"]


def test_a_region_is_known_by_shapes_and_zeros() -> None:
    def key(model: onnx.ModelProto) -> str:
        return region_key(region(select.clean(model), model.graph.node[0].input[1][:-7], SETTINGS))

    other = chain()
    weight = numpy_helper.to_array(other.graph.initializer[0]).copy()
    weight[1] = 0
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "first.weight"))
    assert key(chain(0)) == key(chain(1, first="renamed"))
    assert key(chain(0)) != key(other)


def test_only_a_sure_win_beats_dense() -> None:
    timings = {
        "dense": Timed(1.0, 1.0, 1.0, 1.0),
        "lucky": Timed(0.5, 2.0, 0.9, 3.0),
        "sure": Timed(0.8, 1.25, 1.2, 1.3),
    }
    assert measure.best(timings) == "sure"
    assert measure.best({name: timings[name] for name in ("dense", "lucky")}) == "dense"


def test_dead_channels_go_where_that_measured_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "measure", pretend("drop-channels-1"))
    monkeypatch.setattr(select, "_whole_ratio", lambda *_: select.Ratio(1.5, 1.4, 1.6))
    given = chain()
    lowered = lower(given, settings=SETTINGS, cache=False)
    channels = [(d.layer, d.op_type, d.chosen, d.live) for d in lowered.decisions if d.op_type == "channels"]
    assert channels == [("first", "channels", "drop-channels-1", 0.5)]
    assert check.worst_error(outputs(given), outputs(lowered.model)) < 1e-5


@pytest.mark.usefixtures("few_forms")
def test_a_model_of_fixed_batch_is_timed_at_that_batch() -> None:
    given = chain()
    for value in [*given.graph.input, *given.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 3
    lowered = lower(given, settings=SETTINGS, cache=False)
    assert all(decision.timings for decision in lowered.decisions if decision.layer == "first")


def test_norms_are_written_out_where_that_measured_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    given = chain()
    given.graph.node[1].CopyFrom(helper.make_node("LRN", ["a"], ["b"], size=5))
    monkeypatch.setattr(select, "_whole_ratio", lambda *_: select.Ratio(1.5, 1.4, 1.6))
    for winner, operators in (("expand", {"AveragePool"}), ("dense", {"LRN"})):
        monkeypatch.setattr(select, "measure", pretend(winner))
        lowered = lower(given, settings=SETTINGS, cache=False)
        assert {"AveragePool", "LRN"} & {node.op_type for node in lowered.model.graph.node} == operators
        norms = [decision.chosen for decision in lowered.decisions if decision.op_type == "norm"]
        assert norms == (["expand"] if winner == "expand" else [])
        assert check.worst_error(outputs(given), outputs(lowered.model)) < 1e-5
