"""Exported programs (``.pt2``)."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

from case import PREFIX, Bomb, Case, Place, Records, code, saved, sparse

from sslcli.checkpoint import Record
from sslcli.checkpoint.record import InputSpec

_PROGRAM = "models/model.json"
_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"


def _changed(change: Callable[[Records, Place], object]) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        records = Records(place)
        change(records, place)
        records.write(place.path("m.pt2"))

    return make


def _sizes(program: Any, expression: str) -> None:
    for meta in program["graph_module"]["graph"]["tensor_values"].values():
        for size in meta["sizes"]:
            if "as_expr" in size:
                size["as_expr"]["expr_str"] = expression


def _expression(records: Records, place: Place) -> None:
    records.json(_PROGRAM, lambda program: _sizes(program, code(place)))


def _tower(records: Records, place: Place) -> None:
    records.json(_PROGRAM, lambda p: _sizes(p, "Pow(Integer(9), Pow(Integer(9), Integer(9)))"))


def _guard(records: Records, place: Place) -> None:
    records.json(_PROGRAM, lambda program: program.update(guards_code=[f"{code(place)} is None"]))


def _weight(records: Records, place: Place) -> None:
    names: list[str] = []

    def change(config: Any) -> None:
        meta = next(iter(config["config"].values()))
        meta["use_pickle"] = True
        names.append(meta["path_name"])

    records.json(_WEIGHTS, change)
    records.records[f"data/weights/{names[0]}"] = saved(Bomb(place))


def _constant(records: Records, place: Place) -> None:
    meta = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    records.records[_CONSTANTS] = json.dumps({"config": {"c": meta}}).encode()
    records.records["data/constants/opaque_obj_0"] = pickle.dumps(Bomb(place))


def _samples(records: Records, place: Place) -> None:
    records.records["data/sample_inputs/model.pt"] = saved(((Bomb(place),), {}))


def _calls(target: str, argument: dict[str, Any]) -> Callable[[Records, Place], object]:
    node = {
        "target": target,
        "inputs": [{"name": "", "arg": argument, "kind": 1}],
        "outputs": [],
        "metadata": {},
        "is_hop_single_tensor_return": None,
        "name": "inserted",
    }
    return lambda records, _: records.json(
        _PROGRAM, lambda p: p["graph_module"]["graph"]["nodes"].insert(0, node)
    )


def _system(records: Records, place: Place) -> None:
    _calls("torch.serialization.os.mkdir", {"as_string": str(place.canary)})(records, place)


def _container(records: Records, _: Place) -> None:
    tree = '[1, {"type": "os.path", "context": "null", "children_spec": []}]'
    records.json(
        _PROGRAM, lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(out_spec=tree)
    )


def _node_name(records: Records, place: Place) -> None:
    name = f"x = {code(place)}"
    records.json(_PROGRAM, lambda p: p["graph_module"]["graph"]["nodes"][0].update(name=name))


def _terabytes(records: Records, _: Place) -> None:
    def change(program: Any) -> None:
        next(iter(program["graph_module"]["graph"]["tensor_values"].values()))["sizes"] = [{"as_int": 10**13}]

    records.json(_PROGRAM, change)


def _stride(records: Records, _: Place) -> None:
    def change(config: Any) -> None:
        meta = next(iter(config["config"].values()))["tensor_meta"]
        meta["sizes"] = [{"as_int": 2**16}, {"as_int": 2**16}]
        meta["strides"] = [{"as_int": 0}, {"as_int": 0}]

    records.json(_WEIGHTS, change)


def _outside(records: Records, _: Place) -> None:
    def change(config: Any) -> None:
        next(iter(config["config"].values()))["path_name"] = "../../../etc/passwd"

    records.json(_WEIGHTS, change)


def _compiled(records: Records, _: Place) -> None:
    records.records["data/aotinductor/model/evil.so"] = b"\x7fELF"


def _recorded(record: Record) -> Callable[[Records, Place], object]:
    def change(records: Records, place: Place) -> None:
        source = f"import os\nos.mkdir({str(place.canary)!r})\n"
        place.path("evil.py").write_text(source)
        records.records["extra/sslcli.json"] = record.to_json().encode()

    return change


def _raw(name: str, content: bytes) -> Callable[[Records, Place], object]:
    return lambda records, _: records.records.update({name: content})


def _entry(name: str, link: bool = False) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        path = Records(place).write(place.path("m.pt2"))
        entry = zipfile.ZipInfo(name)
        if link:
            entry.external_attr = 0o120777 << 16
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(entry, "/etc/passwd")

    return make


def _cut(place: Place) -> None:
    path = Records(place).write(place.path("m.pt2"))
    path.write_bytes(path.read_bytes()[:-3000])


def _lying_size(place: Place) -> None:
    records = Records(place)
    path = records.write(place.path("m.pt2"))
    size = len(records.records[_PROGRAM]).to_bytes(4, "little") * 2
    path.write_bytes(path.read_bytes().replace(size, (2**31).to_bytes(4, "little") * 2))


def _compressed(place: Place) -> None:
    records = Records(place)
    records.records["padding"] = b"0" * 100_000_000
    records.write(place.path("m.pt2"), zipfile.ZIP_DEFLATED)


_INPUTS = (InputSpec((1, 28, 28)),)
_CODE = Record(arch="evil.py:make", inputs=_INPUTS)
_CODE_AS_DATA = Record(arch="lenet", inputs=_INPUTS, data="evil.py:make")
_MODULE_AS_DATA = Record(arch="lenet", inputs=_INPUTS, data="evil:make")
_HUGE = Record(arch="mlp", arch_args={"hidden": [1 << 40]}, inputs=_INPUTS)
_HUGE_INPUT = Record(arch="lenet", inputs=(InputSpec((1, 1 << 20, 1 << 20)),))
_PLAN = {
    "schema": "sslcli/plan/1",
    "kept": {},
    "zeroed": {},
    "zeroed_blocks": {},
    "shapes": {},
    "added": {"conv1.more": [1 << 40]},
    "probe": {"inputs": [{"shape": [1 << 40], "dtype": "float32", "high": 0}], "outputs": []},
}
_INSPECT, _PRUNE = "inspect m.pt2", "prune m.pt2 -o small.pt2"

PT2 = [
    Case("code in a shape expression", _changed(_expression), _PRUNE, "expression"),
    Case("a power tower in a shape expression", _changed(_tower), _INSPECT, "expression"),
    Case("code in a guard: guards are thrown away", _changed(_guard), "inspect m.pt2 -q", code=0),
    Case("a pickled weight", _changed(_weight), _PRUNE, "is a pickle, which could run code"),
    Case(
        "a pickled constant",
        _changed(_constant),
        "export m.pt2 -o o.onnx",
        "is a pickle, which could run code",
    ),
    Case("a bomb among the sample inputs", _changed(_samples), _INSPECT, "which could run code"),
    Case("an operator found by walking attributes to `os.mkdir`", _changed(_system), _PRUNE, "operator"),
    Case(
        "an operator that maps files",
        _changed(_calls("torch.ops.aten.from_file.default", {"as_string": "/etc/passwd"})),
        _INSPECT,
        "from_file",
    ),
    Case("a container type found by its import path", _changed(_container), _INSPECT, "tuples"),
    Case("code as the name of a node", _changed(_node_name), "evaluate m.pt2 --data mnist-5k", "identifier"),
    Case("a tensor of 10^13 elements in the graph", _changed(_terabytes), _INSPECT, "size"),
    Case("a weight of terabytes through strides of 0", _changed(_stride), _PRUNE, "elements, but"),
    Case("a weight whose path leaves the archive", _changed(_outside), _INSPECT, "m.pt2"),
    Case("compiled code (`.so`) in the archive", _changed(_compiled), _INSPECT, "compiled code"),
    Case(
        "a record that names a file of code: it is not run, the graph is used",
        _changed(_recorded(_CODE)),
        "inspect m.pt2 -q",
        code=0,
    ),
    Case(
        "a record that names a file of code as its data, measured",
        _changed(_recorded(_CODE_AS_DATA)),
        "evaluate m.pt2 -q",
        "give --data evil.py:make to run it",
    ),
    Case(
        "a record that names a module as its data, measured",
        _changed(_recorded(_MODULE_AS_DATA)),
        "evaluate m.pt2 -q",
        "give --data evil:make to run it",
    ),
    Case(
        "a record that names a file of code as its data, trained",
        _changed(_recorded(_CODE_AS_DATA)),
        "train m.pt2 -o out.pt2 --max-steps 1 -q",
        "give --data evil.py:make to run it",
    ),
    Case(
        "a record that names a file of code as its data, regularized",
        _changed(_recorded(_CODE_AS_DATA)),
        "regularize m.pt2 -o out.pt2 --structure filter=1 -q",
        "give --data evil.py:make to run it",
    ),
    Case(
        "a record that names a file of code as its data, inspected",
        _changed(_recorded(_CODE_AS_DATA)),
        "inspect m.pt2 --sensitivity -q",
        "give --data evil.py:make to run it",
    ),
    Case(
        "a record that names a file of code as its data, pruned",
        _changed(_recorded(_CODE_AS_DATA)),
        "prune m.pt2 -o small.pt2 --recalibrate 1 -q",
        "give --data evil.py:make to run it",
    ),
    Case(
        "a record whose class would need terabytes: the graph is used",
        _changed(_recorded(_HUGE)),
        "inspect m.pt2 -q",
        code=0,
    ),
    Case(
        "a record whose input would need terabytes",
        _changed(_recorded(_HUGE_INPUT)),
        "inspect m.pt2 -q",
        code=0,
    ),
    Case(
        "a record whose plan adds terabytes",
        _changed(_recorded(Record(arch="lenet", inputs=_INPUTS, plan=_PLAN))),
        "apply-plan m.pt2 --arch lenet -o out.pt2",
        "plan",
    ),
    Case(
        "a record of 100,000 open brackets",
        _changed(_raw("extra/sslcli.json", b"[" * 100_000)),
        _INSPECT,
        "record",
    ),
    Case("a program of 100,000 open brackets", _changed(_raw(_PROGRAM, b"[" * 100_000)), _INSPECT, "JSON"),
    Case("a program that is `null`", _changed(_raw(_PROGRAM, b"null")), _INSPECT, "m.pt2"),
    Case("an entry `../../evil`", _entry(f"{PREFIX}/../../evil"), _INSPECT, "leaves its folder"),
    Case(
        "an entry that is a symbolic link",
        _entry(f"{PREFIX}/data/weights/weight_9", link=True),
        _INSPECT,
        "symbolic link",
    ),
    Case("an archive cut short", _cut, _PRUNE, "broken archive"),
    Case("a header that lies about a size", _lying_size, _INSPECT, "larger than"),
    Case("compressed entries (a bomb of 100 MB)", _compressed, _INSPECT, "compressed"),
    Case(
        "a terabyte of zeros as `.pt2`",
        lambda p: sparse(p.path("m.pt2")),
        _INSPECT,
        "not a readable .pt2 file",
    ),
]
