"""Whether a step must run again: a key over all that its result depends on, and the record of its last run.

The key is a hash of the command, its options, the contents of what it reads and the version of the code.
Options that only say where or how often (worker processes, when state is saved) are no part of it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import sslcli
from sslcli.errors import DataError, ModelError
from sslcli.files import atomic_output
from sslcli.options.steps import STEPS
from sslcli.options.training import NEUTRAL
from sslcli.recipe.model import Recipe, Step

SCHEMA = "sslcli/step/1"
STEP_FILE = "step.json"
# What a result does not depend on.
_NEUTRAL = NEUTRAL | {"workers", "data_root"}
_LIBRARIES = ("torch", "numpy", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")


def step_key(recipe: Recipe, step: Step, inputs: Mapping[str, str]) -> str:
    """The key of ``step`` whose inputs have the contents ``inputs`` (role -> hash)."""
    described = {
        "uses": step.uses,
        "options": _options(step),
        "inputs": dict(inputs),
        "references": _references(step),
        "code": code_version(),
    }
    if not step.inputs:
        described["source"] = source_hash(recipe.source)
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def source_hash(source: str) -> str:
    """The content of a start model: of the file, or the name of a fresh architecture."""
    if source.startswith("arch:"):
        return source
    try:
        return file_hash(Path(source))
    except OSError as error:
        raise ModelError(f"cannot read {source} ({error.strerror})", "check model.weights") from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.cache
def code_version() -> str:
    """A hash of this package's sources and of the versions of the libraries that do the work.

    What only prints (``cli``, ``report``) is left out: no result depends on it.
    """
    digest = hashlib.sha256()
    root = Path(sslcli.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] in ("cli", "report"):
            continue
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    for name in _LIBRARIES:
        digest.update(f"{name}={_version(name)}".encode())
    return digest.hexdigest()


def recorded(folder: Path, key: str) -> dict[str, Any] | None:
    """The record of the step's last run if it is still good: same key, outputs whole and unchanged."""
    record = read_record(folder)
    if record is None or record.get("key") != key or record.get("failure"):
        return None
    for name, content in record.get("outputs", {}).items():
        path = folder / name
        if not path.is_file() or file_hash(path) != content:
            return None
    return record


def read_record(folder: Path) -> dict[str, Any] | None:
    """``step.json`` as it is, or None where there is none that can be read."""
    try:
        record = json.loads((folder / STEP_FILE).read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("schema") == SCHEMA else None


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``step.json``; the last thing that a step does."""
    with atomic_output(folder / STEP_FILE) as temporary:
        temporary.write_text(json.dumps({"schema": SCHEMA, **record}, indent=2, default=str) + "\n")


def _options(step: Step) -> dict[str, Any]:
    chosen = step.settings
    groups = [chosen.step, chosen.run, chosen.model]
    if STEPS[step.uses].data != "no":
        groups.append(chosen.data)
    values: dict[str, Any] = {}
    for group in groups:
        values |= group.model_dump(mode="json")
    return {name: value for name, value in values.items() if name not in _NEUTRAL}


def _references(step: Step) -> dict[str, str]:
    """Hashes of the files that options name: code references, image folders, checkpoints."""
    chosen = step.settings
    names = [chosen.model.arch, getattr(chosen.step, "task", None), getattr(chosen.step, "teacher", None)]
    names += [getattr(chosen.step, name, None) for name in ("compare", "replay")]
    if STEPS[step.uses].data != "no":
        names += [chosen.data.data, chosen.data.normalize_from]
    return {name: _reference_hash(name) for name in names if name}


def _reference_hash(name: str) -> str:
    if name.startswith("imagefolder:"):
        return _folder_hash(Path(name.removeprefix("imagefolder:")))
    path = Path(name.rpartition(":")[0] or name)
    return file_hash(path) if path.is_file() else ""


def _folder_hash(folder: Path) -> str:
    """Names, sizes and times; reading every image would cost more than a training step."""
    if not folder.is_dir():
        raise DataError(f"the image folder {folder} does not exist", "check the name")
    digest = hashlib.sha256()
    for line in _listing(folder):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _listing(folder: Path) -> Iterable[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            yield f"{path.relative_to(folder).as_posix()} {status.st_size} {status.st_mtime_ns}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
