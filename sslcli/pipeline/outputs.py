"""What is written where, and what may be: an output of other origin is not replaced without ``--force``.

A product of the same command from the same model may be replaced, so that ``make`` can rebuild a target
whose prerequisites changed; anything else that stands there is somebody's work.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sslcli.errors import OutputError, UsageError
from sslcli.files import check_writable, data_file
from sslcli.options.contradictions import check_training
from sslcli.options.training import RegularizeOptions, completed
from sslcli.pipeline.presence import check_model
from sslcli.pipeline.request import Request
from sslcli.pipeline.results import Planned

RECORD = "sslcli.json"
_MAX_RECORD = 64 << 20


def check_output(request: Request) -> Path:
    """Refuse an output that cannot or must not be written, before any work is done.

    Returns:
        The output.

    Raises:
        UsageError: no output was named.
        OutputError: it cannot be written, is the input itself, or stands there and is not this
            command's own older product.
    """
    path = request.output
    if path is None:
        raise UsageError(f"{request.command} needs an output", "name it with -o")
    check_writable(path)
    aims = bool(getattr(request.settings.step, "target", None))
    for source in _read(request):
        if aims and nearest_path(path).resolve() == source.resolve():
            raise OutputError(f"{source} is where the nearest model of {path} goes", "name another output")
        if path.exists() and path.samefile(source):
            what = "the input" if str(source) == request.source else "the teacher"
            raise OutputError(f"{path} is {what} itself", "name another output")
    if not request.force:
        _check_companions(request, path, aims)
    if not path.exists():
        return path
    if not request.force and not _is_own_product(path, request):
        raise OutputError(
            f"{path} exists and was not made by this {request.command} of {request.source}",
            "give --force to replace it, or another output",
        )
    return path


def _read(request: Request) -> list[Path]:
    """The models that a job reads and must not write over."""
    names = (request.source, getattr(request.settings.step, "teacher", None))
    return [Path(name) for name in names if name is not None and Path(name).exists()]


def _check_companions(request: Request, output: Path, aims: bool) -> None:
    """Refuse to write over files beside the output that are somebody's work."""
    hint = "name another output, move it, or give --force to replace it"
    nearest = nearest_path(output)
    if aims and nearest.exists() and not _is_own_product(nearest, request):
        what = f"{nearest} is where the nearest model goes, and was not made by this {request.command}"
        raise OutputError(f"{what} of {request.source}", hint)
    course = metrics_path(output)
    if request.command in ("train", "regularize") and course.exists() and not _is_course(course):
        raise OutputError(f"{course} is where the course of {output} goes, and is none", hint)


def _is_course(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            line = stream.readline(_MAX_RECORD)
        return not line or "kind" in json.loads(line)
    except (OSError, ValueError, TypeError):
        return False


def nearest_path(output: Path) -> Path:
    """Where the nearest model is kept if a target is missed."""
    return output.with_name(f"{output.stem}.nearest.pt2")


def forget_nearest(request: Request, output: Path) -> None:
    """Remove the model that the same command kept when it missed its target: now it has met it."""
    nearest = nearest_path(output)
    if nearest.is_file() and _is_own_product(nearest, request):
        nearest.unlink()


def plan_path(output: Path) -> Path:
    """Where the plan is written as JSON: beside the model."""
    return output.with_name("plan.json" if output.name == "model.pt2" else f"{output.stem}.plan.json")


def state_path(output: Path) -> Path:
    """Where the state of a run is kept until its output is written."""
    return output.with_name(f".{output.name}.state")


def metrics_path(output: Path) -> Path:
    """Where the course of a run is kept: beside the output, ``metrics.jsonl`` in a step's own folder."""
    name = "metrics.jsonl" if output.name == "model.pt2" else f"{output.stem}.metrics.jsonl"
    return output.with_name(name)


def written(request: Request) -> Iterator[tuple[str, Path]]:
    """Every file that a job may write: what it is called, and where it goes."""
    output, step = request.output, request.settings.step
    if output is not None:
        yield "--output", output
        yield from _companions(request.command, output)
    for name in ("csv", "markdown"):
        if getattr(step, name, None) is not None:
            yield f"--{name}", Path(getattr(step, name))


def _companions(command: str, output: Path) -> Iterator[tuple[str, Path]]:
    if command in ("train", "regularize"):
        yield "the course", metrics_path(output)
        yield "the state", state_path(output)
    if command == "prune":
        yield "the plan", plan_path(output)
    if command in ("train", "regularize", "prune"):
        yield "the nearest model", nearest_path(output)
    if command == "export" and output.suffix == ".onnx":
        yield "the weights", data_file(output)


def planned(request: Request) -> Planned:
    """What ``--dry-run`` says: the checks are made, the work is not."""
    if request.output is not None:
        check_output(request)
    source = request.source
    check_model(source)
    chosen = request.settings
    check_training(chosen.step)
    step = completed(chosen.step) if isinstance(chosen.step, RegularizeOptions) else chosen.step
    options: dict[str, Any] = {}
    for group in filter(None, (step, chosen.model, chosen.data, chosen.run)):
        options |= group.model_dump(mode="json", exclude_none=True)
    return Planned(
        command=request.command,
        source=source,
        output=None if request.output is None else str(request.output),
        replaces=request.output is not None and request.output.exists(),
        options=options,
    )


def _is_own_product(path: Path, request: Request) -> bool:
    last = _last_step(path)
    if last is None or last.get("command") != request.command:
        return False
    parents = last.get("parents") or []
    if request.source.startswith("arch:"):
        return not parents
    return bool(parents) and parents[0].get("name") == os.path.basename(request.source)  # noqa: PTH119


def _last_step(path: Path) -> dict[str, Any] | None:
    """The step that wrote ``path``, by the record inside it; None for files of other origin."""
    try:
        record = json.loads(_record_text(path) or "null")
        step = record["provenance"][-1]
    except (OSError, ValueError, TypeError, LookupError, zipfile.BadZipFile):
        return None
    return step if isinstance(step, dict) else None


def _record_text(path: Path) -> str | None:
    if path.suffix == ".pt2":
        with zipfile.ZipFile(path) as archive:
            names = [item for item in archive.infolist() if item.filename.endswith(RECORD)]
            return archive.read(names[0]).decode() if names and names[0].file_size < _MAX_RECORD else None
    if path.suffix == ".safetensors":
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, _MAX_RECORD)))
        text = header.get("__metadata__", {}).get("sslcli")
        return text if isinstance(text, str) else None
    if path.suffix == ".onnx":
        return _onnx_record(path)
    return None


def _onnx_record(path: Path) -> str | None:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # noqa: BLE001  (protobuf's errors are not part of its interface; it is not ours then)
        return None
    return next((entry.value for entry in model.metadata_props if entry.key == "sslcli"), None)
