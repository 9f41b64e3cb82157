"""Tampered `.pt2` archives: torch itself would run their code; sslcli refuses them and runs nothing."""

import contextlib
import io
import json
import logging
import os
import pickle
import zipfile

import pytest
import torch

from sslcli.checkpoint.pt2 import read_pt2
from sslcli.errors import ModelError


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.fixture
def code(canary):
    return f"__import__('pathlib').Path({str(canary)!r}).touch()"


class Bomb:
    """Touches the canary when it is unpickled."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def expression(archive, code, canary):
    program = archive.program
    for meta in program["graph_module"]["graph"]["tensor_values"].values():
        for size in meta["sizes"]:
            if "as_expr" in size:
                size["as_expr"]["expr_str"] = code
    archive.program = program


def guard(archive, code, canary):
    archive.program = {**archive.program, "guards_code": [f"{code} is None"]}


def pickled_weight(archive, code, canary):
    weights = archive.weights
    meta = next(iter(weights["config"].values()))
    meta["use_pickle"] = True
    archive.weights = weights
    archive.records[f"data/weights/{meta['path_name']}"] = saved(Bomb(canary))


def pickled_constant(archive, code, canary):
    meta = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    archive.records["data/constants/model_constants_config.json"] = json.dumps(
        {"config": {"c": meta}}
    ).encode()
    archive.records["data/constants/opaque_obj_0"] = pickle.dumps(Bomb(canary))


def sample_inputs(archive, code, canary):
    archive.records["data/sample_inputs/model.pt"] = saved(((Bomb(canary),), {}))


ATTACKS = [expression, guard, pickled_weight, pickled_constant, sample_inputs]


@pytest.mark.parametrize("attack", ATTACKS)
def test_torch_alone_would_run_the_code(attack, archive, code, canary, monkeypatch):
    attack(archive, code, canary)
    for name in ("torch.export", "torch._export.serde.serialize"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    with contextlib.suppress(Exception):  # whatever it says afterwards, the code has run
        torch.export.load(str(archive.write())).module()(torch.zeros(2, 1, 8, 8))
    assert canary.exists()


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a is not guard])
def test_code_is_refused_and_not_run(attack, archive, code, canary):
    attack(archive, code, canary)
    with pytest.raises(ModelError) as caught:
        read_pt2(archive.write())
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert not canary.exists()


def test_guards_are_blanked(archive, code, canary, small):
    guard(archive, code, canary)
    module = read_pt2(archive.write()).exported().module()
    x = torch.randn(3, 1, 8, 8)
    assert torch.allclose(module(x), small(x), atol=1e-6)
    assert not canary.exists()


def test_an_untouched_archive_gives_the_models_outputs(archive, small):
    pt2 = read_pt2(archive.write())
    module = pt2.exported().module()
    for batch in (1, 3, 64):
        x = torch.randn(batch, 1, 8, 8)
        assert torch.allclose(module(x), small(x), atol=1e-6)
    assert pt2.inputs()[0].shape == (1, 8, 8)
    assert pt2.has_dynamic_batch()


def test_the_clean_archive_holds_no_trace_of_the_machine(archive):
    assert b"stack_trace" in archive.records["models/model.json"]
    clean = read_pt2(archive.write()).clean()
    assert b"stack_trace" not in clean
    assert b".py" not in clean


# Each changes one thing in the program's JSON; the words must be in the error.
def node(program, target, argument):
    program["graph_module"]["graph"]["nodes"].insert(
        0,
        {
            "target": target,
            "inputs": [{"name": "", "arg": argument, "kind": 1}],
            "outputs": [],
            "metadata": {},
            "is_hop_single_tensor_return": None,
            "name": "inserted",
        },
    )


def first_parameter(program):
    specs = program["graph_module"]["signature"]["input_specs"]
    return next(spec["parameter"] for spec in specs if "parameter" in spec)


def first_size(program):
    values = program["graph_module"]["graph"]["tensor_values"]
    return next(size for meta in values.values() for size in meta["sizes"] if "as_expr" in size)


def signature(program):
    return program["graph_module"]["module_call_graph"][0]["signature"]


def set_item(container, key, value):
    container[key] = value


def calls(target, argument):
    return lambda program: node(program, target, argument)


def squares(count):
    """s1 = s0 * s0, s2 = s1 * s1, ..."""

    def change(program):
        for i in range(count):
            argument = {"as_sym_int": {"as_name": f"s{i}"}}
            node(program, "_operator.mul", argument)
            inserted = program["graph_module"]["graph"]["nodes"].pop(0)
            inserted["inputs"] *= 2
            inserted["outputs"] = [{"as_sym_int": {"as_name": f"s{i + 1}"}}]
            program["graph_module"]["graph"]["nodes"].insert(i, inserted)

    return change


def relu_of(argument):
    return calls("torch.ops.aten.relu.default", argument)


def names_first_node(name):
    return lambda program: set_item(program["graph_module"]["graph"]["nodes"][0], "name", name)


def names_first_parameter(name):
    return lambda program: set_item(first_parameter(program), "parameter_name", name)


def sets_signature(key, value):
    return lambda program: set_item(signature(program), key, value)


def sets_first_tensor(key, value):
    def change(program):
        set_item(next(iter(program["graph_module"]["graph"]["tensor_values"].values())), key, value)

    return change


def sets_last_input(argument):
    return lambda program: set_item(program["graph_module"]["graph"]["inputs"], -1, argument)


def sets_expression(text):
    return lambda program: set_item(first_size(program)["as_expr"], "expr_str", text)


CUSTOM_TREE = '[1, {"type": "os.path", "context": "null", "children_spec": []}]'
PROGRAMS = {
    "operator by attribute walk": (calls("torch.serialization.os.system", {"as_string": "true"}), "operator"),
    "operator that opens files": (calls("torch.ops.aten.from_file.default", {"as_string": "x"}), "from_file"),
    "operator of TorchScript": (calls("torch.ops.aten.save.default", {"as_string": "x"}), "operator"),
    "operator of another library": (calls("torch.ops.evil.run.default", {"as_none": True}), "operator"),
    "operator with a dunder": (calls("torch.ops.aten.__class__.default", {"as_none": True}), "operator"),
    "overload that is an attribute": (calls("torch.ops.aten.relu._schemas", {"as_none": True}), "operator"),
    "python operator": (calls("_operator.attrgetter", {"as_string": "x"}), "operator"),
    "higher-order operator": (calls("torch.ops.higher_order.cond", {"as_none": True}), "higher_order"),
    "extension operator": (calls("#evil:run", {"as_none": True}), "operator"),
    "sub-graph": (relu_of({"as_graph": {}}), "sub-graph"),
    "operator as argument": (relu_of({"as_operator": "torch.hub.load"}), "operator"),
    "custom object": (relu_of({"as_custom_obj": {"name": "a", "class_fqn": "b"}}), "custom object"),
    "text with quotes": (relu_of({"as_string": "'; import os"}), "text"),
    "text for a number": (relu_of({"as_int": "__import__('os')"}), "int"),
    "number for a flag": (relu_of({"as_bool": 1}), "bool"),
    "unknown variant": (relu_of({"as_code": "x"}), "Argument"),
    "huge list of sizes": (calls("torch.ops.aten.zeros.default", {"as_ints": [10**7, 10**7]}), "size"),
    "code as node name": (names_first_node("x = exec('1')"), "identifier"),
    "keyword as node name": (names_first_node("import"), "identifier"),
    "code as weight name": (names_first_parameter('a"),exec("1"),("'), "name"),
    "dunder in weight name": (names_first_parameter("__class__.conv"), "name"),
    "text as input": (
        lambda p: set_item(p["graph_module"]["graph"]["inputs"], -1, {"as_string": "a"}),
        "input",
    ),
    "custom container": (sets_signature("out_spec", CUSTOM_TREE), "tuples"),
    "container that is no JSON": (sets_signature("in_spec", "os.system"), "tuples"),
    "code as argument name": (sets_signature("forward_arg_names", ["x, y=exec('1')"]), "identifier"),
    "text in arithmetic": (calls("_operator.mul", {"as_string": "a"}), "numbers"),
    "list in arithmetic": (calls("_operator.mul", {"as_ints": [1, 2]}), "numbers"),
    "numbers without end": (squares(40), "multiplies"),
    "terabytes": (sets_first_tensor("sizes", [{"as_int": 10**13}]), "size"),
    "other device": (sets_first_tensor("device", {"type": "xla"}), "device"),
    "endless counter": (lambda p: set_item(p["range_constraints"], "u99999999999", {}), "symbol"),
    "unknown dialect": (lambda p: set_item(p, "verifiers", ["EVIL"]), "dialect"),
    "no graph": (lambda p: p["graph_module"].pop("graph"), "graph"),
    "power tower": (sets_expression("Pow(Integer(9), Pow(Integer(9), Integer(9)))"), "expression"),
    "attribute in expression": (sets_expression("Integer(1).__class__"), "expression"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_tampered_program_is_refused(name, archive):
    change, word = PROGRAMS[name]
    program = archive.program
    change(program)
    archive.program = program
    with pytest.raises(ModelError, match=word):
        read_pt2(archive.write())


def meta_of(weights):
    return weights["config"]["conv.weight"]


def layout(**fields):
    return lambda meta: meta["tensor_meta"].update(fields)


def sizes(*values):
    return [{"as_int": value} for value in values]


SYMBOLIC = [{"as_expr": {"expr_str": "Symbol('s0')", "hint": None}}] * 4
WEIGHTS = {
    "larger than stored": layout(sizes=sizes(4, 1, 3, 400)),
    "offset beyond the end": layout(storage_offset={"as_int": 1000}),
    "negative offset": layout(storage_offset={"as_int": -4}),
    "terabytes through stride 0": layout(sizes=sizes(2**31), strides=sizes(0)),
    "symbolic shape": layout(sizes=SYMBOLIC),
    "dtype that is not there": layout(dtype=99),
    "path out of the folder": lambda m: set_item(m, "path_name", "../../etc/passwd"),
    "absolute path": lambda m: set_item(m, "path_name", "/etc/passwd"),
    "record that is not there": lambda m: set_item(m, "path_name", "weight_99"),
    "no shape": lambda m: set_item(m, "tensor_meta", None),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_tampered_weights_are_refused(name, archive):
    weights = archive.weights
    WEIGHTS[name](meta_of(weights))
    archive.weights = weights
    with pytest.raises(ModelError):
        read_pt2(archive.write())


def test_a_missing_weight_is_one_sentence(archive):
    weights = archive.weights
    del weights["config"]["fc.bias"]
    archive.weights = weights
    with pytest.raises(ModelError) as caught:
        read_pt2(archive.write()).exported()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"archive_format": b"pt9"}, "no archive of torch.export"),
        ({"archive_version": b"7"}, "version"),
        ({"byteorder": b"big"}, "big-endian"),
        ({"data/aotinductor/model/evil.so": b"\x7fELF"}, "compiled code"),
        ({"data/weights/model.pt": b"x"}, "pickle"),
        ({"models/model.json": b"{" * 100_000}, "JSON"),
        ({"models/model.json": b"[" * 100_000}, "JSON"),
        ({"models/model.json": b"1" * 10_000}, "JSON"),
        ({"models/model.json": b"null"}, "NoneType"),
        ({"data/weights/model_weights_config.json": b'{"config": []}'}, "dict"),
        ({"extra/sslcli.json": b'{"version": 99}'}, "record"),
        ({"extra/sslcli.json": b"{not json"}, "record"),
        ({"data/sample_inputs/model.pt": b"garbage"}, "sample_inputs"),
    ],
)
def test_a_tampered_record_is_refused(records, message, archive):
    archive.records.update(records)
    with pytest.raises(ModelError, match=message):
        read_pt2(archive.write())


def test_a_compressed_archive_is_refused(archive):
    archive.records["padding"] = b"0" * 10_000_000
    with pytest.raises(ModelError, match="compressed"):
        read_pt2(archive.write(zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    "name", ["archive/../../evil", "/etc/passwd", "other/models/model.json", "archive/a\\..\\b"]
)
def test_entries_that_leave_the_folder_are_refused(name, archive):
    path = archive.write()
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"x")
    with pytest.raises(ModelError, match="leaves its folder"):
        read_pt2(path)


def test_a_symbolic_link_is_refused(archive):
    path = archive.write()
    link = zipfile.ZipInfo("archive/data/weights/weight_9")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(ModelError, match="symbolic link"):
        read_pt2(path)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_an_entry_that_is_there_twice_is_refused(archive):
    path = archive.write()
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/models/model.json", b"{}")
    with pytest.raises(ModelError, match="twice"):
        read_pt2(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99, 0.999])
def test_a_truncated_archive_is_one_sentence(keep, archive):
    path = archive.write()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ModelError, match="broken"):
        read_pt2(path)


def test_a_damaged_byte_is_noticed(archive):
    path = archive.write()
    content = bytearray(path.read_bytes())
    content[content.find(b"graph_module") + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="CRC"):
        read_pt2(path)


def test_a_header_that_lies_about_the_size_is_refused(archive):
    path = archive.write()
    content = path.read_bytes()
    size = len(archive.records["models/model.json"])
    lie = (2**31).to_bytes(4, "little")
    path.write_bytes(content.replace(size.to_bytes(4, "little") * 2, lie * 2))
    with pytest.raises(ModelError, match="larger than"):
        read_pt2(path)
