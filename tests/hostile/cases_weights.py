"""Pickles, state dicts and ``.safetensors``."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import zipfile

import torch
from case import Bomb, Case, Place, safetensors, saved, sparse

from sslcli.checkpoint import Record
from sslcli.models import create

_RUNS_CODE = "would run code from the file"


def _bomb(name: str, **options: object):
    return lambda place: place.path(name).write_bytes(saved(Bomb(place), **options))


def _raw(name: str, protocol: int):
    return lambda place: place.path(name).write_bytes(pickle.dumps(Bomb(place), protocol))


def _beside_weights(place: Place) -> None:
    state = {"state_dict": create("lenet").state_dict(), "optimizer": {"step": Bomb(place)}}
    torch.save(state, place.path("w.ckpt"))


def _getattr_chain(place: Place) -> None:
    # builtins.getattr(os, "mkdir")(canary) by hand: no class, only opcodes
    name = str(place.canary).encode()
    content = b"\x80\x02cbuiltins\ngetattr\n(cos\n__dict__\nX\x05\0\0\0mkdirtR"
    content += b"(X" + len(name).to_bytes(4, "little") + name + b"tR."
    place.path("w.pth").write_bytes(content)


def _allowed_global(place: Place) -> None:
    """A tensor of a terabyte over a storage of four bytes: the global is one that torch allows."""
    torch.save({"conv1.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}, place.path("w.pt"))


def _storage_lies(place: Place) -> None:
    content = saved({"conv1.weight": torch.zeros(7)})
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(place.path("w.pt"), "w") as archive:
        for name, record in records.items():
            # K\x07: the number of elements; \x8a\x05: the same as a number of five bytes
            archive.writestr(name, record.replace(b"K\x07t", b"\x8a\x06\0\0\0\0\0\x01t"))


def _claims_bytes(place: Place) -> None:
    place.path("w.pt").write_bytes(b"\x80\x04\x8e" + (1 << 62).to_bytes(8, "little") + b"x.")


def _nested(place: Place) -> None:
    place.path("w.pth").write_bytes(b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b".")


def _laughs(place: Place) -> None:
    value: object = "ha"
    for _ in range(40):
        value = [value] * 10
    torch.save({"state_dict": value}, place.path("w.pt"))


def _itself(place: Place) -> None:
    value: dict[str, object] = {}
    value["state_dict"] = value
    torch.save(value, place.path("w.pt"))


def _zip_bomb(place: Place) -> None:
    with zipfile.ZipFile(place.path("w.pt"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"\0" * 100_000_000)


def _torchscript(place: Place) -> None:
    with zipfile.ZipFile(place.path("w.pt"), "w") as archive:
        archive.writestr("w/constants.pkl", b"x")
        archive.writestr("w/code/__torch__.py", b"x")


def _tar(place: Place) -> None:
    with tarfile.open(place.path("w.pth"), "w") as archive:
        for name in ("../storages", "/pickle", "sys_info"):
            content = pickle.dumps(Bomb(place))
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def _cut(place: Place) -> None:
    place.path("w.pt").write_bytes(saved(create("lenet").state_dict())[:-5000])


def _with(value: float):
    def make(place: Place) -> None:
        state = create("lenet").state_dict()
        state["fc1.weight"][0, 0] = value
        torch.save(state, place.path("w.pt"))

    return make


def _other(place: Place) -> None:
    torch.save(create("mlp").state_dict(), place.path("w.pt"))


def _numbers(place: Place) -> None:
    torch.save(dict.fromkeys(create("lenet").state_dict(), "a word"), place.path("w.pt"))


def _names(place: Place) -> None:
    torch.save({"conv1.weight\n\x1b[31mError: all is well": torch.zeros(3)}, place.path("w.pt"))


def _whole_module(place: Place) -> None:
    torch.save(create("lenet"), place.path("w.pt"))


def _entry(**fields: object) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **fields}}).encode()


def _header(header: bytes):
    return lambda place: safetensors(place.path("w.safetensors"), header)


def _code_arch(place: Place) -> None:
    source = f"import os\nos.mkdir({str(place.canary)!r})\n"
    place.path("evil.py").write_text(source)
    header = {"__metadata__": {"sslcli": Record(arch="evil.py:make").to_json()}}
    safetensors(place.path("w.safetensors"), json.dumps(header).encode(), b"")


def _record_nested(place: Place) -> None:
    header = {"__metadata__": {"sslcli": "[" * 100_000}}
    safetensors(place.path("w.safetensors"), json.dumps(header).encode(), b"")


_INSPECT = "inspect {} --arch lenet"
_PRUNE = "prune {} --arch lenet -o small.pt2"
_TWO = json.dumps(
    {name: {"dtype": "F32", "shape": [1], "data_offsets": [at, at + 4]} for name, at in (("a", 0), ("b", 2))}
).encode()

PICKLES = [
    Case("a pickle bomb in `.pt`", _bomb("w.pt"), _PRUNE.format("w.pt"), _RUNS_CODE),
    Case(
        "a pickle bomb in `.pth`, in the form before torch 1.6",
        _bomb("w.pth", _use_new_zipfile_serialization=False),
        _INSPECT.format("w.pth"),
        _RUNS_CODE,
    ),
    Case("a bare pickle bomb as `.th`", _raw("w.th", 2), _PRUNE.format("w.th"), "w.th"),
    Case(
        "a bare pickle bomb of protocol 0",
        _raw("w.pt", 0),
        _INSPECT.format("w.pt"),
        "not a readable .pt file",
    ),
    Case("a bare pickle bomb of protocol 5", _raw("w.ckpt", 5), _INSPECT.format("w.ckpt"), "w.ckpt"),
    Case("a bomb beside sound weights in `.ckpt`", _beside_weights, _PRUNE.format("w.ckpt"), _RUNS_CODE),
    Case("opcodes that walk from `getattr` to `os.mkdir`", _getattr_chain, _INSPECT.format("w.pth"), "w.pth"),
    Case(
        "a pickle bomb named `.safetensors`",
        _bomb("w.safetensors"),
        _INSPECT.format("w.safetensors"),
        _RUNS_CODE,
    ),
    Case("a pickle bomb named `.pt2`", _bomb("m.pt2"), _PRUNE.format("m.pt2"), _RUNS_CODE),
    Case(
        "a pickle bomb as the teacher",
        _bomb("w.pt"),
        "train arch:lenet -o out.pt2 --data mnist-5k --max-steps 1 --arch lenet --teacher w.pt",
        _RUNS_CODE,
    ),
    Case(
        "a pickle bomb as the state of a run that was stopped",
        _bomb(".out.pt2.state"),
        "train arch:lenet -o out.pt2 --data mnist-5k --max-steps 1 -q",
        "cannot be read as the state of a run",
    ),
    Case("a whole module, whose class is code", _whole_module, _INSPECT.format("w.pt"), "--trust-pickle"),
    Case(
        "a tensor of 4 TB over a storage of 4 bytes", _allowed_global, _PRUNE.format("w.pt"), "does not fit"
    ),
    Case("a storage that claims terabytes", _storage_lies, _INSPECT.format("w.pt"), "w.pt"),
    Case("a string that claims 2^62 bytes", _claims_bytes, _INSPECT.format("w.pt"), "w.pt"),
    Case("200,000 nested tuples", _nested, _INSPECT.format("w.pth"), "w.pth"),
    Case(
        "lists that share lists, 10^40 words when written out",
        _laughs,
        _INSPECT.format("w.pt"),
        "no state dict",
    ),
    Case("a wrapper that holds itself", _itself, _INSPECT.format("w.pt"), "no state dict"),
    Case("a zip bomb", _zip_bomb, _INSPECT.format("w.pt"), "compressed"),
    Case("a TorchScript archive", _torchscript, _INSPECT.format("w.pt"), "TorchScript"),
    Case("a tar archive with a bomb and path tricks", _tar, _INSPECT.format("w.pth"), "w.pth"),
    Case("a `.pt` cut short", _cut, _INSPECT.format("w.pt"), "broken archive"),
    Case(
        "a terabyte of zeros as `.pt`",
        lambda p: sparse(p.path("w.pt")),
        _INSPECT.format("w.pt"),
        "not a readable .pt file",
    ),
    Case("an empty file", lambda p: p.path("w.pt").touch(), _INSPECT.format("w.pt"), "is empty"),
    Case("a folder in place of a model", lambda p: p.path("w.pt/x"), _INSPECT.format("w.pt"), "is a folder"),
    Case(
        "a pipe in place of a model",
        lambda p: os.mkfifo(p.path("w.pt")),
        _INSPECT.format("w.pt"),
        "not a regular file",
    ),
    Case(
        "a link to `/dev/zero`",
        lambda p: p.path("w.pt").symlink_to("/dev/zero"),
        _INSPECT.format("w.pt"),
        "not a regular file",
    ),
    Case("a link to itself", lambda p: p.path("w.pt").symlink_to("w.pt"), _INSPECT.format("w.pt"), "w.pt"),
]

STATES = [
    Case("weights with NaN", _with(float("nan")), _PRUNE.format("w.pt"), "not numbers: fc1.weight"),
    Case(
        "weights with Inf",
        _with(float("inf")),
        "export w.pt --arch lenet -o o.onnx",
        "not numbers: fc1.weight",
    ),
    Case("weights of another network", _other, _INSPECT.format("w.pt"), "does not fit the architecture"),
    Case("words where weights should be", _numbers, _INSPECT.format("w.pt"), "holds no state dict"),
    Case(
        "names with line breaks and terminal codes",
        _names,
        _INSPECT.format("w.pt"),
        "does not fit the architecture",
    ),
]

SAFETENSORS = [
    Case("tensors that overlap", _header(_TWO), _INSPECT.format("w.safetensors"), "w.safetensors"),
    Case(
        "an offset beyond the file",
        _header(_entry(data_offsets=[4 << 40, (4 << 40) + 4])),
        _PRUNE.format("w.safetensors"),
        "w.safetensors",
    ),
    Case(
        "an offset that ends before it begins",
        _header(_entry(data_offsets=[4, 0])),
        _INSPECT.format("w.safetensors"),
        "w.safetensors",
    ),
    Case(
        "a shape of terabytes",
        _header(_entry(shape=[1 << 40], data_offsets=[0, 4 << 40])),
        _INSPECT.format("w.safetensors"),
        "w.safetensors",
    ),
    Case("a negative size", _header(_entry(shape=[-1])), _INSPECT.format("w.safetensors"), "w.safetensors"),
    Case(
        "a header longer than the file",
        lambda p: p.path("w.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}"),
        _INSPECT.format("w.safetensors"),
        "w.safetensors",
    ),
    Case(
        "a header of 5,000 open braces",
        _header(b"{" * 5000),
        _INSPECT.format("w.safetensors"),
        "w.safetensors",
    ),
    Case("a record that names code as its class", _code_arch, "inspect w.safetensors", "not run unasked"),
    Case(
        "a record of 100,000 open brackets in `.safetensors`",
        _record_nested,
        _INSPECT.format("w.safetensors"),
        "record",
    ),
    Case(
        "a terabyte of zeros as `.safetensors`",
        lambda p: sparse(p.path("w.safetensors")),
        _INSPECT.format("w.safetensors"),
        "w.safetensors",
    ),
]
