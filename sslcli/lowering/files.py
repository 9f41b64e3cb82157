"""ONNX files in and out: one file up to 2 GB, external data beyond, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import onnx

from sslcli.bench.inputs import read_proto
from sslcli.errors import ModelError, OutputError
from sslcli.files import atomic_output, data_file, output_error
from sslcli.lowering import check, protos
from sslcli.reference import describe

_ALIGNMENT = 4096
_TYPES = onnx.TensorProto
_WIDE = {_TYPES.FLOAT, _TYPES.DOUBLE, _TYPES.INT32, _TYPES.INT64, _TYPES.FLOAT16, _TYPES.INT8, _TYPES.UINT8}
_SMALLEST_MOVED = 1024  # bytes; shapes and the like must stay where runtimes look for them


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read a model with its external data.

    Raises:
        ModelError: not there, not ONNX, not what it says, or its data file is missing.
    """
    model = read_proto(path)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # protobuf, numpy and OSError alike: the data are not readable
        raise ModelError(
            f"the data of {path} cannot be read ({describe(error)})", "export it again"
        ) from error
    return model


def write_onnx(model: onnx.ModelProto, path: Path, *, limit_bytes: int = check.ONE_FILE_BYTES) -> Path:
    """Write a model atomically; beyond ``limit_bytes`` the weights go to ``path`` + ``.data``.

    With two files the old model is removed before the new data are put in place, so that a killed run
    never leaves a model beside data that are not its own. Data that another model reads stay.

    Raises:
        OutputError: the output cannot be written, or another model has its data where these would go.
    """
    data = data_file(path)
    if protos.size_bytes(model) < limit_bytes:
        was_own = data.is_file() and _reads(path, data) and _other_reader(data, path) is None
        with atomic_output(path) as temporary:
            temporary.write_bytes(model.SerializeToString())
        if was_own:
            _unlink(data)
        return path
    other = _other_reader(data, path) if data.is_file() else None
    if other is not None:
        raise _taken(data, other)
    slim = onnx.ModelProto()
    slim.CopyFrom(model)
    with atomic_output(data) as temporary:
        _move_data(slim, temporary, data.name)
        _unlink(path)
    with atomic_output(path) as temporary:
        temporary.write_bytes(slim.SerializeToString())
    return path


def require_own_data(path: Path, source: Path) -> None:
    """Raise OutputError where the data file of the output ``path`` holds the weights of ``source``."""
    data = data_file(path)
    if data.is_file() and source.resolve() != path.resolve() and _reads(source, data):
        raise _taken(data, source)


def _taken(data: Path, reader: Path) -> OutputError:
    return OutputError(f"{data} holds the weights of {reader}", "choose another name for the output")


def _other_reader(data: Path, path: Path) -> Path | None:
    """A model beside ``data``, other than ``path``, whose weights are in it."""
    others = (model for model in sorted(data.parent.glob("*.onnx")) if model.name != path.name)
    return next((model for model in others if _reads(model, data)), None)


def _reads(model: Path, data: Path) -> bool:
    """Whether a file is an ONNX model with weights in ``data``."""
    try:
        tensors = read_proto(model).graph.initializer
    except ModelError:  # nothing of it is lost
        return False
    locations = {
        entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"
    }
    return any((model.parent / location).resolve() == data.resolve() for location in locations)


def _move_data(model: onnx.ModelProto, target: Path, location: str) -> None:
    with target.open("wb") as stream:
        for tensor in model.graph.initializer:
            if not tensor.raw_data and tensor.data_type not in _WIDE:
                continue  # text and numbers of less than a byte are not stored as their arrays are
            raw = tensor.raw_data or protos.array(tensor).tobytes()
            if len(raw) < _SMALLEST_MOVED:
                continue
            stream.seek(-stream.tell() % _ALIGNMENT, 1)
            offset = stream.tell()
            stream.write(raw)
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
                tensor.ClearField(field)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", str(offset)), ("length", str(len(raw)))):
                tensor.external_data.add(key=key, value=value)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


__all__ = ["OutputError", "read_onnx", "require_own_data", "write_onnx"]
