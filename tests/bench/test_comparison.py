from __future__ import annotations

import csv
import dataclasses
import io
import json
import re

import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import sslcli
from sslcli.bench import compare, require_gate, to_csv, to_markdown
from sslcli.bench.comparison import label_models, own_batch_size
from sslcli.bench.history import compare_with_old
from sslcli.bench.host import Load, others_load, this_host
from sslcli.bench.results import Comparison
from sslcli.bench.statistics import Ratio
from sslcli.errors import DeviceError, GateError, InputError, UsageError
from sslcli.options.bench import BenchOptions


def with_zero_rows(model: bytes, name: str, count: int) -> bytes:
    proto = onnx.load_from_string(model)
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            values = numpy_helper.to_array(tensor).copy()
            values[:count] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, name))
    return proto.SerializeToString()


@pytest.fixture(autouse=True)
def _no_other_processes(monkeypatch):
    """What else runs on the machine of the tests is no fact about the code."""
    monkeypatch.setattr("sslcli.bench.comparison.others_load", lambda before, after, cpus: 0.04)


def quick(base, *others, **chosen) -> Comparison:
    return compare(base, others, **({"budget_s": 0.01, "warmup": 1} | chosen))


def test_rows_stand_for_whole_models_then_layers(network, lowered):
    found = quick(network, lowered, batch_size=2)
    assert [(row.layer, row.subject) for row in found.rows] == [
        (layer, model) for layer in (None, "a", "b", "c") for model in ("model 0", "model 1")
    ]
    assert {(row.provider, row.threads, row.batch_size, row.kind) for row in found.rows} == {
        ("cpu", 1, 2, "onnx")
    }
    assert [row.ratio is None for row in found.rows] == [True, False] * 4
    assert [note.split(" by ")[0] for note in found.notes] == [
        "outputs of model 1 differ from those of model 0"
    ]


def test_rows_follow_from_their_samples(network, lowered):
    for row in quick(network, lowered).rows:
        assert row.samples().shape[0] >= 8
        assert min(min(block) for block in row.samples_ns) / 1e6 == pytest.approx(
            row.latency.minimum_ms, abs=1e-6
        )
        assert row.nodes.keys() == {"CPUExecutionProvider"}


def test_limit_is_the_ratio_of_macs_and_difference_that_of_outputs(network, lowered):
    found = quick(network, lowered, network)
    macs = {(row.layer, row.subject): row.macs for row in found.rows}
    limits = {(row.layer, row.subject): row.limit for row in found.rows}
    assert limits["b", "model 1"] == macs["b", "model 0"] / macs["b", "model 1"] == 1.0
    assert found.models[0].difference is None
    assert found.models[1].difference > 0.01
    assert found.models[2].difference == 0.0


def test_unstructured_rows_have_the_others_number_of_weights(network):
    sparse = with_zero_rows(network, "b.weight", 3)
    found = quick(network, sparse, unstructured=True, layers="[bc]")
    kinds = [(row.layer, row.kind) for row in found.rows if row.layer and row.subject == "model 1"]
    assert kinds == [("b", "onnx"), ("b", "csr"), ("b", "csr product"), ("c", "onnx")]
    macs = {row.kind: row.macs for row in found.rows if row.layer == "b" and row.subject == "model 1"}
    assert macs == {"onnx": 6 * 8 * 16, "csr": 3 * 8 * 16, "csr product": 3 * 8 * 16}


def test_layer_that_went_is_noted(network):
    proto = onnx.load_from_string(network)
    proto.graph.node[0].name, proto.graph.node[0].output[0] = "new", "new"
    proto.graph.node[1].input[0] = "new"
    found = quick(network, proto.SerializeToString(), layers="a")
    assert found.models[1].difference == 0
    assert found.notes == ("a is gone from model 1",)
    assert [row.subject for row in found.rows if row.layer == "a"] == ["model 0"]


def test_busy_machine_is_noted(network, monkeypatch):
    monkeypatch.setattr("sslcli.bench.comparison.others_load", lambda before, after, cpus: 0.47)
    found = quick(network, layers=None)
    assert found.protocol.others_load == 0.47
    assert "other processes used 47% of the processors" in found.notes[0]


def test_load_of_others_is_what_this_process_did_not_use():
    before, after = Load(100.0, 10.0, 5.0), Load(107.0, 13.0, 9.0)
    assert others_load(before, after, cpus=2) == pytest.approx((7 - 3) / (2 * 4))
    assert others_load(None, after, cpus=2) is None
    assert others_load(before, Load(102.0, 13.0, 9.0), cpus=2) == 0.0


def test_json_holds_everything(network, lowered):
    found = quick(network, lowered, unstructured=True)
    assert Comparison.from_json(found.to_json()) == found
    wrapped = json.dumps({"schema": "sslcli/bench/1", "comparison": found.to_dict()})
    assert Comparison.from_json(wrapped) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "is not a comparison"),
        ("[]", "is not a comparison"),
        ("{}", "is not a comparison"),
        ('{"schema": "sslcli/comparison/9"}', "has schema sslcli/comparison/9"),
        ('{"schema": "sslcli/comparison/1"}', "is damaged"),
        ("[" * 100_000, "is not a comparison"),
        ("9" * 5000, "is not a comparison"),
    ],
)
def test_json_of_something_else_is_an_input_error(text, message):
    with pytest.raises(InputError, match=message):
        Comparison.from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples_ns": "x"}, r"rows\[1\]\.samples_ns \(whole of model 1\): "),
        ({"samples_ns": []}, r"rows\[1\]\.samples_ns \(whole of model 1\): blocks must hold equally many"),
        ({"samples_ns": [[]]}, "blocks must hold equally many"),
        ({"samples_ns": [[1, 2], [3]]}, "blocks must hold equally many"),
        ({"samples_ns": [["1"]]}, r"rows\[1\]\.samples_ns\[0\]\[0\] .* integer"),
        ({"samples_ns": [[1.5]]}, "integer"),
        ({"samples_ns": [[None]]}, "integer"),
        ({"samples_ns": [[5, -5]]}, "samples must be positive"),
        ({"samples_ns": [[0]]}, "samples must be positive"),
        ({"samples_ns": [[10**400]]}, "samples must be positive"),
        ({"samples_ns": [[5], [6]], "rounds": [1]}, r"its rounds \[1\] are not its 2 blocks"),
        ({"samples_ns": [[5], [6]], "rounds": [3, -1]}, "are not its 2 blocks"),
        ({"latency": {}}, r"rows\[1\]\.latency\.median_ms "),
        ({"ratio": {"value": "2", "low": 1.0, "high": 3.0}}, r"rows\[1\]\.ratio\.value "),
    ],
)
def test_a_damaged_row_is_named(network, change, message):
    data = json.loads(quick(network, network, layers=None).to_json())
    data["rows"][1] |= change
    with pytest.raises(InputError, match=message) as caught:
        Comparison.from_json(json.dumps(data))
    assert caught.value.exit_code == 3


def test_files_from_before_rounds_and_unlike_outputs_are_read(network):
    data = json.loads(quick(network, network, layers=None).to_json())
    del data["rows"][0]["rounds"], data["models"][1]["incomparable"]
    assert Comparison.from_json(json.dumps(data)).rows[0].rounds == ()


def test_csv_has_a_line_a_row(network, lowered):
    found = quick(network, lowered)
    lines = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert len(lines) == len(found.rows)
    assert lines[1]["speedup"] == str(found.rows[1].ratio.value)
    assert lines[0]["speedup"] == ""
    assert [line["layer"] for line in lines[::2]] == ["", "a", "b", "c"]


def test_markdown_tables_are_rectangular(network, lowered):
    text = to_markdown(quick(network, lowered, unstructured=True))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {11}
    assert "### cpu, 1 thread, batch 1" in text
    assert "model 1 as csr product" in text


def test_names_do_not_break_a_row_of_markdown(network):
    found = quick(network, network, labels=["one", "a|b\n\\|c"], layers="a")
    rows = tuple(dataclasses.replace(row, layer=row.layer and "x |\r\n y") for row in found.rows)
    lines = to_markdown(dataclasses.replace(found, rows=rows, notes=("p\nq",))).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 4
    cells = [re.split(r"(?<!\\) \| ", line.strip("| "))[:2] for line in table[3:5]]
    assert cells == [["whole", r"a\|b \\\|c"], [r"x \| y", "one"]]
    assert lines[-1] == "- p q"


@pytest.mark.parametrize(
    ("threads", "told"),
    [(1, "times are CPU time of the one thread that runs, not wall time"), (2, "times are wall time")],
)
def test_markdown_says_which_clock_its_times_are_of(network, threads, told):
    lines = to_markdown(quick(network, layers=None, threads=threads)).splitlines()
    assert lines[4:7] == [lines[4], "", told]
    assert lines[4].startswith("| whole |")


def test_gate_reads_whole_models_only(network, lowered):
    found = quick(network, lowered)
    slow, fast = Ratio(0.5, 0.4, 0.6), Ratio(2.0, 1.9, 2.1)
    rows = tuple(
        row if row.ratio is None else dataclasses.replace(row, ratio=slow if row.layer else fast)
        for row in found.rows
    )
    require_gate(dataclasses.replace(found, rows=rows), 1.5)
    with pytest.raises(GateError, match=r"model 1 on cpu is 2x as fast"):
        require_gate(dataclasses.replace(found, rows=rows), 2.5)


def test_changes_against_an_earlier_run(network, lowered):
    old = quick(network, lowered)
    slower = tuple(
        dataclasses.replace(row, samples_ns=tuple(tuple(3 * ns for ns in block) for block in row.samples_ns))
        for row in old.rows
    )
    changes, notes = compare_with_old(dataclasses.replace(old, rows=slower), old)
    assert [change.row.layer for change in changes] == [row.layer for row in old.rows]
    assert all(change.speed.value == pytest.approx(1 / 3, rel=1e-6) for change in changes)
    assert changes[1].old_ratio == old.rows[1].ratio
    assert notes == []


def test_other_hosts_are_refused_unless_allowed(network):
    new = quick(network, layers=None)
    host = dataclasses.replace(new.host, cpu_model="Other", versions=new.host.versions | {"torch": "1.0"})
    old = dataclasses.replace(new, host=host)
    with pytest.raises(UsageError, match=r"cpu_model: .* or Other\); .*--allow-host-mismatch"):
        compare_with_old(new, old)
    changes, notes = compare_with_old(new, old, allow_host_mismatch=True)
    assert len(changes) == 1
    assert [note.split(" was ")[0] for note in notes[1:]] == ["torch"]
    assert "cpu_model" in notes[0]


def test_runs_without_a_common_row_are_refused(network):
    with pytest.raises(UsageError, match="no row in common"):
        compare_with_old(quick(network, layers=None), quick(network, layers=None, batch_size=2))


def test_labels_tell_models_apart(tmp_path):
    one, two, three = tmp_path / "a" / "m.onnx", tmp_path / "b" / "m.onnx", tmp_path / "n.onnx"
    assert label_models([one, two, three]) == [str(one), str(two), "n.onnx"]
    assert label_models([three, three, b""]) == [f"{three} (0)", f"{three} (1)", "model 2"]


def test_batch_defaults_to_what_the_base_takes(network):
    assert own_batch_size(network) == 1
    proto = onnx.load_from_string(network)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    fixed = proto.SerializeToString()
    assert own_batch_size(fixed) == 5
    assert quick(fixed, layers=None).rows[0].batch_size == 5


def test_package_is_the_public_function(network, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(network)
    options = BenchOptions(budget=0.01, layers="none", warmup=1)
    found = sslcli.bench(str(path), [path], options)
    assert [row.subject for row in found.rows] == [f"{path} (0)", f"{path} (1)"]
    assert found.models[0].size_bytes == len(network)
    with pytest.raises(UsageError, match="--fail-under needs a second model"):
        sslcli.bench(path, options=BenchOptions(fail_under=1.5))


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
def test_cuda_that_is_missing_is_exit_8_before_anything_is_timed(network):
    for providers in (("cuda",), ("cpu", "cuda")):
        said: list[str] = []
        with pytest.raises(DeviceError) as caught:
            quick(network, providers=providers, progress=said.append)
        assert caught.value.exit_code == 8
        assert said == []


def test_host_is_described():
    host = this_host(["cpu"])
    assert host.cpu_model
    assert 1 <= len(host.affinity) <= host.cpus
    assert host.gpu is None
    assert host.versions["onnxruntime"]
