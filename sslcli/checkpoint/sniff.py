"""What kind of saved model a file is, told from its first bytes; nothing in it is run."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from sslcli.errors import ModelError

FileKind = Literal["pt2", "pickle", "safetensors", "onnx"]

_SUFFIXES: dict[str, FileKind] = {
    ".pt2": "pt2",
    ".safetensors": "safetensors",
    ".onnx": "onnx",
    ".pt": "pickle",
    ".pth": "pickle",
    ".th": "pickle",
    ".ckpt": "pickle",
}
KNOWN = ".pt2, .safetensors, .pt, .pth, .th, .ckpt or .onnx"


def sniff(path: Path) -> FileKind:
    """The kind of a saved model: by its content, and by its suffix where the content is not telling.

    Raises:
        ModelError: there is no such file, it is empty, or it is no kind of model.
    """
    head = _head(path)
    by_suffix = _SUFFIXES.get(path.suffix.lower())
    if head.startswith(b"PK"):
        return _zip_kind(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if by_suffix is None:
        raise ModelError(f"{path} is no saved model that sslcli knows", f"give a {KNOWN} file")
    if by_suffix in ("onnx", "safetensors"):  # no magic number, or a header that its reader judges
        return by_suffix
    raise ModelError(f"{path} is not a readable {path.suffix} file", "it may be cut short; copy it again")


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ModelError(f"{path} is a folder", f"give a {KNOWN} file")
        if not path.is_file():
            missing = "is not a regular file" if path.exists() else "does not exist"
            raise ModelError(f"the saved model {path} {missing}", "check the path")
        with path.open("rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error})", "check the path") from error
    if not head:
        raise ModelError(f"{path} is empty", "it may be cut short; copy it again")
    return head


def _zip_kind(path: Path) -> FileKind:
    try:
        names = _entries(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"{path} is a broken archive ({error})", "it may be cut short; copy it again"
        ) from error
    ends = {name.partition("/")[2] for name in names}
    if "archive_format" in ends:
        return "pt2"
    if "constants.pkl" in ends and any(name.startswith("code/") for name in ends):
        raise ModelError(
            f"{path} is a TorchScript archive, which is code",
            "save the module's state_dict() and give --arch",
        )
    if "data.pkl" in ends:
        return "pickle"
    if "serialized_exported_program.json" in names:
        raise ModelError(f"{path} is an exported program of torch before 2.8", "export it again")
    raise ModelError(f"{path} is an archive that holds no model", f"give a {KNOWN} file")


def _entries(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    if not infos or min(info.header_offset for info in infos):
        # What is left of a cut archive may hold a whole smaller one.
        raise zipfile.BadZipFile("its beginning or its end is missing")
    return [info.filename for info in infos]
