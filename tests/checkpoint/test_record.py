import json

import pytest

from sslcli.checkpoint.record import InputSpec, Record, parent, portable
from sslcli.errors import ModelError

FULL = Record(
    arch="torchvision:resnet18",
    arch_args={"num_classes": 10, "name": "1"},
    inputs=(InputSpec((3, 224, 224)), InputSpec((7,), "int64")),
    mean=(0.5, 0.25, 0.125),
    std=(0.1, 0.2, 0.3),
    data="cifar10",
    classes=("cat", "dog"),
    plan={"kept": {"conv1.weight": {"0": [0, 2]}}},
    tied=(("a.weight", "b.weight"),),
    zero_groups={"filter": {"conv1": 3}},
    metrics={"accuracy": 0.91},
)


def test_json_round_trip():
    assert Record.from_json(FULL.to_json(), "here") == FULL
    assert Record.from_json(Record().to_json(), "here") == Record()


def test_equal_records_write_equal_bytes():
    assert Record.from_json(FULL.to_json(), "x").to_json() == FULL.to_json()


def test_followed_by_appends_a_step_with_the_parents_hash(tmp_path):
    source = tmp_path / "in.pt2"
    source.write_bytes(b"abc")
    record = FULL.followed_by("prune", {"threshold": 0.0}, [source], metrics={})
    step = record.provenance[-1]
    assert (step.command, step.options) == ("prune", {"threshold": 0.0})
    assert step.parents[0].name == "in.pt2"
    assert step.parents[0].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert record.metrics == {}
    assert Record.from_json(record.to_json(), "here") == record


@pytest.mark.parametrize(
    ("value", "cut"),
    [
        ("/home/me/nets.py:small", "nets.py:small"),
        ("imagefolder:/data/cats", "imagefolder:cats"),
        ("file.py:/data/x", "file.py:x"),
        ("~/nets.py:small", "nets.py:small"),
        ("C:\\Users\\me\\w.pt", "w.pt"),
        ("runs/small.pt2", "runs/small.pt2"),
        ("torchvision:resnet18", "torchvision:resnet18"),
        ("a/b", "a/b"),
        ({"/key/x": ["/a/b", {"c": "/d/e"}]}, {"x": ["b", {"c": "e"}]}),
        (0.5, 0.5),
    ],
)
def test_absolute_paths_are_cut(value, cut):
    assert portable(value) == cut


def test_no_absolute_path_gets_into_a_record(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"")
    record = Record(arch=f"{tmp_path}/nets.py:small", data=f"imagefolder:{tmp_path}")
    text = record.followed_by("train", {"data_root": str(tmp_path)}, [path]).to_json()
    assert str(tmp_path) not in text
    assert parent(path).name == "x"


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"unknown": 1},
        {"arch": 7},
        {"inputs": [{"shape": [-1]}]},
        {"inputs": [{"shape": [1], "dtype": "object"}]},
        {"std": [0.0]},
        {"metrics": {"a": "b"}},
        {"provenance": [{"command": "x", "parents": [{"name": "a", "sha256": "zz"}]}]},
        {"plan": []},
        {"tied": [[""]]},
    ],
)
def test_a_record_of_another_schema_is_refused(change):
    content = {**json.loads(FULL.to_json()), **change}
    with pytest.raises(ModelError, match=r"record of model\.pt2 is not valid"):
        Record.from_json(json.dumps(content), "model.pt2")


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{", "[" * 100_000, '{"arch": "' + "a" * 2000 + '"}', b"\xff\xfe"]
)
def test_what_is_no_record_is_one_sentence(text):
    with pytest.raises(ModelError) as caught:
        Record.from_json(text, "model.pt2")
    assert "\n" not in str(caught.value)
