"""`.pt2` archives: vetted before torch reads them, and written clean.

`torch.export.load` trusts its file: it evaluates shape expressions, unpickles what claims to be a constant,
finds operators by walking attributes; `.module()` executes guards. So torch never sees the file itself. Its
records are read with bounds, its JSON is checked against a schema (`program_schema`), and a new archive is
made in memory of nothing but what was checked.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import PT2ArchiveWriter, load_pt2
from torch.export.pt2_archive.constants import ARCHIVE_VERSION_VALUE

from sslcli.checkpoint.archive import Archive
from sslcli.checkpoint.payload import Payload
from sslcli.checkpoint.program_schema import DTYPES, Schema, parse_json
from sslcli.checkpoint.record import MAX_BYTES, InputSpec, Record
from sslcli.checkpoint.samples import read_samples
from sslcli.errors import ModelError
from sslcli.reference import describe

RECORD_FILE = "sslcli.json"
_PROGRAM = "models/model.json"
_WEIGHTS, _CONSTANTS = "data/weights/", "data/constants/"
_WEIGHTS_CONFIG = f"{_WEIGHTS}model_weights_config.json"
_CONSTANTS_CONFIG = f"{_CONSTANTS}model_constants_config.json"
_SAMPLES = "data/sample_inputs/model.pt"


@dataclass(frozen=True)
class Pt2:
    """A vetted archive.

    Attributes:
        where: the file's name, for errors.
        program: the checked `models/model.json`.
        weights: parameters and persistent buffers.
        constants: other buffers and tensors of the graph.
        samples: the example inputs it was exported with, as torch stores them; None where it has none.
        record: what sslcli wrote beside it; an empty one in files of others.
    """

    where: str
    program: dict[str, Any]
    weights: Payload
    constants: Payload
    samples: tuple[tuple[Any, ...], dict[str, Any]] | None
    record: Record

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by name, as in a state dict; they share storage with nothing."""
        return self.weights.tensors

    def input_metas(self) -> list[dict[str, Any]]:
        """The graph's own account of each of its tensor inputs: sizes, dtype."""
        module = self.program["graph_module"]
        arguments = [
            spec["user_input"]["arg"] for spec in module["signature"]["input_specs"] if "user_input" in spec
        ]
        names = [argument["as_tensor"]["name"] for argument in arguments if "as_tensor" in argument]
        metas = module["graph"]["tensor_values"]
        if not all(name in metas for name in names):
            raise ModelError(f"{self.where} does not say what its inputs are", "export it again")
        return [metas[name] for name in names]

    def inputs(self) -> tuple[InputSpec, ...]:
        """The inputs without the batch axis, as the graph has them."""
        return tuple(_input_spec(meta, self.where) for meta in self.input_metas())

    def has_dynamic_batch(self) -> bool:
        """Whether the first axis of the first input may have any size."""
        metas = self.input_metas()
        return bool(metas and metas[0]["sizes"]) and "as_expr" in metas[0]["sizes"][0]

    def clean(self) -> bytes:
        """A new archive that holds only what was checked."""
        buffer = BytesIO()
        with PT2ArchiveWriter(buffer) as writer:
            writer.write_bytes(_PROGRAM, json.dumps(self.program).encode())
            for folder, config, payload in (
                (_WEIGHTS, _WEIGHTS_CONFIG, self.weights),
                (_CONSTANTS, _CONSTANTS_CONFIG, self.constants),
            ):
                for name, content in payload.records.items():
                    writer.write_bytes(folder + name, content)
                writer.write_bytes(config, payload.config_json())
            writer.write_bytes(_SAMPLES, _saved(self.samples))
            writer.write_string(f"extra/{RECORD_FILE}", self.record.to_json())
        return buffer.getvalue()

    def exported(self) -> ExportedProgram:
        """The exported program, loaded by torch from the clean archive.

        Raises:
            ModelError: this torch cannot load it.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of its own internals while it loads
                return load_pt2(BytesIO(self.clean())).exported_programs["model"]
        except Exception as error:  # torch raises anything at a graph that is not consistent
            raise ModelError(
                f"{self.where} cannot be loaded by torch {torch.__version__} ({_cause(error)})",
                "export it again with this version of torch",
            ) from error


def read_pt2(path: Path) -> Pt2:
    """Read and vet a `.pt2` file.

    Raises:
        ModelError: it is damaged, of an old format, or holds anything that could run code.
    """
    archive = Archive(path, str(path))
    try:
        return vet(archive)
    finally:
        archive.close()


def vet(archive: Archive) -> Pt2:
    """Check every part of an archive that torch would read."""
    where, names = archive.where, archive.names()
    _check_format(archive, names)
    schema = Schema(where)
    program = schema.program(parse_json(archive.read(_PROGRAM, Schema.MAX_JSON), f"{_PROGRAM} in {where}"))
    return Pt2(
        where=where,
        program=program,
        weights=Payload(archive, _WEIGHTS, _WEIGHTS_CONFIG),
        constants=Payload(archive, _CONSTANTS, _CONSTANTS_CONFIG),
        samples=read_samples(archive, _SAMPLES),
        record=_record(archive, names),
    )


def _check_format(archive: Archive, names: set[str]) -> None:
    where = archive.where
    if "archive_format" not in names or archive.read("archive_format", 16) != b"pt2":
        raise ModelError(f"{where} is no archive of torch.export of torch 2.8 or later", "export it again")
    if any(name.startswith("data/aotinductor/") for name in names):
        raise ModelError(f"{where} holds compiled code", "export the model with torch.export.save")
    if f"{_WEIGHTS}model.pt" in names or f"{_CONSTANTS}model.pt" in names:
        raise ModelError(
            f"{where} holds its weights as a pickle, as old versions of torch wrote", "export it again"
        )
    if archive.read("archive_version", 16).decode("ascii", "replace") != ARCHIVE_VERSION_VALUE:
        raise ModelError(
            f"{where} has another archive version than torch {torch.__version__} reads", "export it again"
        )
    if "byteorder" in names and archive.read("byteorder", 16) != b"little":
        raise ModelError(f"{where} was written on a big-endian machine", "export it again")


def _record(archive: Archive, names: set[str]) -> Record:
    name = f"extra/{RECORD_FILE}"
    return Record.from_json(archive.read(name, MAX_BYTES), archive.where) if name in names else Record()


def _input_spec(meta: dict[str, Any], where: str) -> InputSpec:
    # A further dynamic axis has the size that it was traced with; an axis without a hint has no example.
    shape = tuple(_size(size, where) for size in meta["sizes"][1:])
    return InputSpec(shape, str(DTYPES[meta["dtype"]]).removeprefix("torch."))  # type: ignore[arg-type]


def _size(size: dict[str, Any], where: str) -> int:
    value = size.get("as_int") or ((size.get("as_expr") or {}).get("hint") or {}).get("as_int")
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"an input of {where} has an axis of unknown size", "export it again")
    return value


def _saved(samples: object) -> bytes:
    if samples is None:
        return b""
    buffer = BytesIO()
    torch.save(samples, buffer)
    return buffer.getvalue()


def _cause(error: BaseException) -> str:
    """The innermost message: torch wraps the fact in a traceback as text."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return describe(error) if len(lines) < 2 else f"{type(error).__name__}: {lines[-1].strip()[:200]}"
