"""The record that travels inside every file sslcli writes.

It is the extra file `sslcli.json` of a `.pt2`, and the metadata entry `sslcli` of a `.safetensors` or
`.onnx`: where the model came from, how to rebuild its class, what its inputs are, how they are normalised.
It holds no absolute path and no time, so that the same run writes the same bytes anywhere.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

import sslcli
from sslcli.errors import ModelError

SCHEMA_VERSION: Literal[1] = 1
METADATA_KEY = "sslcli"
MAX_BYTES = 64 << 20  # a plan of a network with a million kept indices takes about 8 MB

# An absolute path, possibly after a prefix such as `imagefolder:`; the group is what stays.
_ABSOLUTE = re.compile(r"^((?:[\w.+-]+:)?)(?:/|[A-Za-z]:[\\/]|~).*[\\/]?$", re.DOTALL)

Name = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f]+$")]  # fit for a line of text
Axis = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class InputSpec:
    """One input of the model: its shape without the batch axis, and its dtype (`float32`)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=False)

    shape: tuple[Axis, ...]
    dtype: Literal["float16", "bfloat16", "float32", "float64", "int32", "int64", "uint8", "bool"] = "float32"


@dataclass(frozen=True)
class Parent:
    """A file that a step read: its name without folders, and its SHA-256."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: Name
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Step:
    """One command that led to the model, with the options that were not defaults."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    command: Name
    options: dict[str, Any] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()


@dataclass(frozen=True)
class Record:
    """What is known about a saved model beyond its weights.

    Args:
        arch: ARCH as given on the command line, without folders; None when the class is not known.
        arch_args: its arguments.
        inputs: one entry per input.
        mean: mean per channel that inputs are normalised with, on a scale of 0 to 1.
        std: standard deviation per channel, likewise.
        data: name of the data set it was trained on.
        validation_from: ``test`` where the validation split was half of its test set, else None.
        classes: names of its classes.
        plan: what pruning kept with respect to the fresh `arch`, as JSON (cumulative).
        tied: names of parameters that are one tensor, one tuple a tensor.
        zero_groups: structure -> {label: number of groups that are exactly zero}.
        metrics: name -> value, such as `accuracy` (fraction).
        notes: what the exported graph lost against the model that was traced, one sentence each.
        provenance: the steps that made the model, oldest first.
        sslcli: version that wrote it.
        version: version of this schema.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    arch: Name | None = None
    arch_args: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[InputSpec, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    data: Name | None = None
    validation_from: Literal["test"] | None = None
    classes: tuple[str, ...] = ()
    plan: dict[str, Any] | None = None
    tied: tuple[tuple[Name, ...], ...] = ()
    zero_groups: dict[str, dict[str, int]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    notes: tuple[Name, ...] = ()
    provenance: tuple[Step, ...] = ()
    sslcli: str = sslcli.__version__
    version: Literal[1] = SCHEMA_VERSION

    def to_json(self) -> str:
        """JSON text, the same bytes for equal records; absolute paths are cut to their last part."""
        plain = _ADAPTER.dump_python(self, mode="json")
        plan = plain.pop("plan")
        return json.dumps({**portable(plain), "plan": plan}, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes, where: str) -> Record:
        """Read a record; `where` names the file in the error.

        Raises:
            ModelError: not a record, or one of a newer schema.
        """
        if len(text) > MAX_BYTES:
            raise ModelError(f"the sslcli record of {where} is larger than {MAX_BYTES >> 20} MB", _REMEDY)
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ModelError(
                f"the sslcli record of {where} is not valid ({place or 'JSON'}: {first['msg']})"[:500],
                _REMEDY,
            ) from error
        except RecursionError as error:
            raise ModelError(f"the sslcli record of {where} is nested too deeply", _REMEDY) from error

    def followed_by(
        self, command: str, options: Mapping[str, object], parents: Sequence[Path] = (), **changes: Any
    ) -> Record:
        """The record of a model made from this one by `command`; `changes` replaces other fields."""
        step = Step(command, portable(dict(options)), tuple(parent(path) for path in parents))
        return dataclasses.replace(
            self, provenance=(*self.provenance, step), sslcli=sslcli.__version__, **changes
        )


_REMEDY = "write the file again with this version of sslcli, or upgrade sslcli"
_ADAPTER = TypeAdapter(Record)


def parent(path: Path) -> Parent:
    """Name and SHA-256 of a file that a step read."""
    with path.open("rb") as stream:
        return Parent(path.name, hashlib.file_digest(stream, "sha256").hexdigest())


def portable(value: Any) -> Any:
    """The value with every absolute path in it cut: `imagefolder:/a/b` -> `imagefolder:b`."""
    if isinstance(value, PurePath):
        value = str(value)
    if isinstance(value, str):
        match = _ABSOLUTE.match(value)
        return match[1] + PurePath(value.replace("\\", "/")).name if match else value
    if isinstance(value, Mapping):
        return {str(portable(key)): portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    return value
