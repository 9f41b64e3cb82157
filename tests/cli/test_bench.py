"""``sslcli bench`` on models of two layers: files, globs, gates and an earlier run."""

import csv
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from sslcli import checkpoint
from sslcli.cli.main import main

QUICK = ["--budget", "0.02", "--warmup", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """conv a -> relu -> conv b."""
    random = np.random.default_rng(0)
    constants = {
        "a.weight": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "b.weight": random.standard_normal((5, 4, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["p"], name="a"),
        helper.make_node("Relu", ["p"], ["q"], name="relu"),
        helper.make_node("Conv", ["q", "b.weight"], ["y"], name="b"),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    path = tmp_path_factory.mktemp("bench") / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def earlier(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("earlier") / "old.json"
    assert main(["bench", str(model), str(model), *QUICK, "-q", "--json", str(path)]) == 0
    return path


def bench(*arguments):
    return main(["bench", *map(str, arguments), *QUICK])


def test_a_model_can_be_held_against_itself(earlier):
    rows = json.loads(earlier.read_text())["rows"]
    assert [row["speedup"] is None for row in rows] == [True, False]
    assert rows[0]["name"] != rows[1]["name"]


def test_an_earlier_bench_is_set_beside_the_new_one(model, earlier, tmp_path, capfd):
    report = tmp_path / "new.json"
    assert bench(model, model, "--compare", earlier, "--json", report) == 0
    assert f"against {earlier}" in capfd.readouterr().out.replace("\n", " ")
    then, now = json.loads(earlier.read_text()), json.loads(report.read_text())
    changes = now["earlier"]["changes"]
    assert [change["layer"] for change in changes] == [None, None, "a", "a", "b", "b"]
    assert [change["old_ms"] for change in changes[:2]] == [row["median_ms"] for row in then["rows"]]
    assert [change["old_speedup"] for change in changes[:2]] == [None, then["rows"][1]["speedup"]]
    assert all(change["times_faster_low"] <= change["times_faster_high"] for change in changes)
    assert then["earlier"] is None


def test_a_model_that_computes_something_else_is_told(model, tmp_path, capfd):
    proto, page = onnx.load(model), tmp_path / "rows.md"
    weight = proto.graph.initializer[1]
    weight.CopyFrom(numpy_helper.from_array(1.5 * numpy_helper.to_array(weight), weight.name))
    onnx.save(proto, tmp_path / "other.onnx")
    assert bench(model, tmp_path / "other.onnx", "--layers", "none", "--markdown", page) == 0
    told = "outputs of other.onnx differ from those of net.onnx by up to 50 % of the largest"
    assert told in capfd.readouterr().out.replace("\n", " ")
    assert told in page.read_text()


def elsewhere(earlier, tmp_path):
    data = json.loads(earlier.read_text())
    data["comparison"]["host"]["cpu_model"] = "another processor"
    path = tmp_path / "elsewhere.json"
    path.write_text(json.dumps(data))
    return path


def test_a_bench_of_another_machine_is_refused_before_anything_is_timed(model, earlier, tmp_path, capfd):
    assert bench(model, model, "--compare", elsewhere(earlier, tmp_path)) == 2
    out, err = capfd.readouterr()
    assert "ran on another machine (cpu_model" in err
    assert "--allow-host-mismatch" in err
    assert out == ""
    assert "timing" not in err


def test_a_bench_of_another_machine_is_taken_where_that_is_said(model, earlier, tmp_path):
    report = tmp_path / "new.json"
    old = elsewhere(earlier, tmp_path)
    assert bench(model, model, "--compare", old, "--allow-host-mismatch", "-q", "--json", report) == 0
    notes = json.loads(report.read_text())["earlier"]["notes"]
    assert [note.startswith("another machine: cpu_model") for note in notes] == [True]


def test_a_bench_of_other_settings_is_an_error_after_the_numbers(model, earlier, capfd):
    assert bench(model, model, "--batch-size", "2", "--compare", earlier) == 2
    out, err = capfd.readouterr()
    assert "net.onnx" in out
    assert "no row in common" in err


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "sslcli/prune/1"}', None])
def test_what_is_no_bench_is_bad_input(model, tmp_path, text, capfd):
    path = tmp_path / "old.json"
    if text is not None:
        path.write_text(text)
    assert bench(model, "--compare", path) == 3
    assert str(path) in capfd.readouterr().err


def test_a_damaged_earlier_bench_is_bad_input_before_anything_is_timed(model, earlier, tmp_path, capfd):
    data = json.loads(earlier.read_text())
    data["comparison"]["rows"][2]["samples_ns"][0] = []
    path = tmp_path / "old.json"
    path.write_text(json.dumps(data))
    assert bench(model, model, "--compare", path) == 3
    err = capfd.readouterr().err
    assert str(path) in err
    assert "rows[2].samples_ns (a of" in err
    assert "timing" not in err


def test_all_rows_go_to_csv_and_markdown(model, tmp_path):
    table, page = tmp_path / "rows.csv", tmp_path / "rows.md"
    assert bench(model, model, "--csv", table, "--markdown", page, "-q") == 0
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["layer"] for row in rows] == ["", "", "a", "a", "b", "b"]
    assert all(float(row["median_ms"]) > 0 for row in rows)
    assert [bool(row["speedup"]) for row in rows] == [False, True] * 3
    text = page.read_text()
    assert "### cpu, 1 thread, batch 1" in text
    assert text.count(f"| {rows[0]['subject']} |") == 3


def test_a_table_that_cannot_be_written_is_told_before_anything_is_timed(model, tmp_path, capfd):
    assert bench(model, "--csv", tmp_path / "none" / "rows.csv") == 9
    assert "timing" not in capfd.readouterr().err


@pytest.mark.parametrize(("glob", "layers"), [("b", ["b"]), ("[ab]", ["a", "b"]), ("none", [])])
def test_a_glob_chooses_the_layers(model, tmp_path, glob, layers):
    report = tmp_path / "bench.json"
    assert bench(model, "--layers", glob, "-q", "--json", report) == 0
    assert [row["layer"] for row in json.loads(report.read_text())["layers"]] == layers


def test_one_model_alone_shows_its_layers(model, capfd):
    assert bench(model) == 0
    lines = capfd.readouterr().out.splitlines()
    start = lines.index("layers of net.onnx on cpu")
    assert [line.split()[0] for line in lines[start + 1 : start + 4]] == ["layer", "a", "b"]


def test_open_height_and_width_are_those_of_the_input_shape(model, tmp_path):
    proto = onnx.load(model)
    for axis, name in ((2, "height"), (3, "width")):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(proto, tmp_path / "open.onnx")
    report = tmp_path / "bench.json"
    files = [tmp_path / "open.onnx", tmp_path / "open.onnx"]
    assert bench(*files, "--input-shape", "3,10,12", "--unstructured", "-q", "--json", report) == 0
    rows = json.loads(report.read_text())["comparison"]["rows"]
    macs = {row["layer"]: row["macs"] for row in rows if row["kind"] == "onnx"}
    assert macs == {None: 8640 + 8640, "a": 4 * 8 * 10 * 27, "b": 5 * 6 * 8 * 36}


def test_a_glob_without_a_layer_is_a_usage_error_that_names_some(model, capfd):
    assert bench(model, "--layers", "conv*") == 2
    assert "a, b" in capfd.readouterr().err


def test_a_gate_without_a_second_model_is_a_usage_error(model):
    assert bench(model, "--fail-under", "1") == 2


def test_saved_models_of_any_form_are_exported_first(tmp_path):
    lenet = checkpoint.load("arch:lenet")
    checkpoint.save(lenet, tmp_path / "net.pt2", record=lenet.record)
    save_file(lenet.model.state_dict(), tmp_path / "net.safetensors")
    report = tmp_path / "bench.json"
    files = [tmp_path / "net.pt2", tmp_path / "net.safetensors"]
    assert bench(*files, "--arch", "lenet", "-q", "--layers", "conv*", "--json", report) == 0
    result = json.loads(report.read_text())
    assert [row["name"] for row in result["rows"]] == ["net.pt2", "net.safetensors"]
    assert [row["layer"] for row in result["layers"]] == ["conv1", "conv1", "conv2", "conv2"]
    assert result["comparison"]["models"][1]["difference"] == 0


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="CUDA is here")
@pytest.mark.parametrize("command", ["bench", "export"])
def test_without_cuda_the_error_says_what_to_install(model, command, tmp_path, capfd):
    if command == "bench":
        assert bench(model, "--providers", "cuda") == 8
    else:
        net = nn.Conv2d(3, 8, 3)
        with torch.no_grad():
            net.weight[::2] = 0
        checkpoint.save(net, tmp_path / "net.pt2", example=(torch.zeros(2, 3, 8, 8),))
        arguments = [str(tmp_path / "net.pt2"), "-o", str(tmp_path / "net.onnx"), "--provider", "cuda"]
        assert main(["export", *arguments]) == 8
        assert not (tmp_path / "net.onnx").exists()
    assert "pip install 'sslcli[gpu]'" in capfd.readouterr().err
