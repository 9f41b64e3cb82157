"""What a case is, and the good files that bad ones are made from."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

PREFIX = "archive"


@dataclass(frozen=True)
class Place:
    """Where a case is made.

    Attributes:
        work: the folder that the command runs in; nothing may change in it.
        canary: a path that exists once code of the case has run.
        good: a folder with a sound ``lenet.pt2``, ``lenet.safetensors`` and ``plan.json``.
    """

    work: Path
    canary: Path
    good: Path

    def path(self, name: str) -> Path:
        """A path in the work folder, whose folders are made."""
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def copy(self, name: str, to: str | None = None) -> Path:
        """A copy of a good file."""
        return Path(shutil.copy(self.good / name, self.path(to or name)))


@dataclass(frozen=True)
class Case:
    """One hostile or broken input.

    Attributes:
        what: it, in words; a row of the table in docs/trust.md.
        make: writes it.
        command: the command line without ``sslcli``.
        says: words of the one sentence on stderr.
        code: the exit code; 0 for inputs that are odd but sound.
    """

    what: str
    make: Callable[[Place], object]
    command: str
    says: str = ""
    code: int = 3


class Bomb:
    """Makes the canary when it is unpickled."""

    def __init__(self, place: Place) -> None:
        self.canary = str(place.canary)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.canary,)


def code(place: Place) -> str:
    """A Python expression that makes the canary."""
    return f"__import__('os').mkdir({str(place.canary)!r})"


def saved(value: object, **options: Any) -> bytes:
    """What ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


class Records:
    """The records of a sound ``.pt2``, to be changed and written."""

    def __init__(self, place: Place) -> None:
        self.records = dict(_records(place.good / "lenet.pt2"))

    def json(self, name: str, change: Callable[[Any], object]) -> None:
        """Change one record that is JSON."""
        value = json.loads(self.records[name])
        change(value)
        self.records[name] = json.dumps(value).encode()

    def write(self, path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
        """Write the archive."""
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in self.records.items():
                archive.writestr(f"{PREFIX}/{name}", content)
        return path


@functools.cache
def _records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def safetensors(path: Path, header: bytes, data: bytes = b"\0" * 8) -> None:
    """A ``.safetensors`` file with any header."""
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def sparse(path: Path, size: int = 1 << 40) -> None:
    """A file that claims a terabyte and takes nothing."""
    path.touch()
    os.truncate(path, size)
