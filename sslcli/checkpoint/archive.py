"""Zip archives of torch, read with bounds.

torch stores records uncompressed, so a compressed one is not torch's; refusing it also means that no
archive can be larger unpacked than it is on disk.
"""

from __future__ import annotations

import re
import zipfile
from io import BytesIO
from pathlib import Path

from sslcli.errors import ModelError

_MAX_ENTRIES = 200_000
_SAFE_NAME = re.compile(r"[\w .+@=-]+(/[\w .+@=-]+)*", re.ASCII)
_BROKEN = (
    zipfile.BadZipFile,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OverflowError,
)


class Archive:
    """The records of one torch zip archive, by their name below its root folder.

    Raises:
        ModelError: it is not a zip, is cut short, holds compressed, encrypted, duplicate or oversized
            entries, or entries whose names leave the root folder.
    """

    def __init__(self, content: Path | bytes, where: str) -> None:
        self.where = where
        source = content if isinstance(content, Path) else BytesIO(content)
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        try:
            self._zip = zipfile.ZipFile(source)
        except _BROKEN as error:
            raise self.broken(str(error)) from error
        self._entries = _check(self._zip.infolist(), size, self)

    def names(self) -> set[str]:
        """Names of the records, without the root folder."""
        return set(self._entries)

    def size(self, name: str) -> int:
        """Bytes of a record."""
        return self._entry(name).file_size

    def read(self, name: str, limit: int | None = None) -> bytes:
        """The content of a record; its checksum is checked.

        Raises:
            ModelError: it is missing, larger than ``limit`` bytes, or damaged.
        """
        entry = self._entry(name)
        if limit is not None and entry.file_size > limit:
            raise ModelError(
                f"{name} in {self.where} has {entry.file_size} bytes, more than {limit}", _SOURCE
            )
        try:
            return self._zip.read(entry)
        except _BROKEN as error:
            raise self.broken(f"{name}: {error}") from error

    def broken(self, why: str) -> ModelError:
        """The error for a damaged archive."""
        return ModelError(
            f"{self.where} is a broken archive ({why[:200]})", "it may be cut short; copy it again"
        )

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def _entry(self, name: str) -> zipfile.ZipInfo:
        if name not in self._entries:
            raise ModelError(f"{self.where} has no {name}", "it may be cut short or no model; save it again")
        return self._entries[name]


_SOURCE = "do not use this file unless you know who made it"


def _check(infos: list[zipfile.ZipInfo], size: int, archive: Archive) -> dict[str, zipfile.ZipInfo]:
    where = archive.where
    if not 0 < len(infos) <= _MAX_ENTRIES:
        raise archive.broken(f"{len(infos)} entries")
    if min(info.header_offset for info in infos):
        raise archive.broken("its beginning or its end is missing")  # what is left may hold a smaller archive
    root = infos[0].filename.partition("/")[0]
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        folder, _, name = info.filename.partition("/")
        if folder != root or not _SAFE_NAME.fullmatch(name) or ".." in name.split("/"):
            raise ModelError(f"{where} has an entry that leaves its folder ({info.filename[:80]!r})", _SOURCE)
        if (info.external_attr >> 16) & 0o170000 == 0o120000:
            raise ModelError(f"{where} holds a symbolic link ({name[:80]})", _SOURCE)
        if name in entries:
            raise ModelError(f"{where} holds {name[:80]} twice", _SOURCE)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ModelError(f"{name[:80]} in {where} is compressed, which torch never does", _SOURCE)
        entries[name] = info
    if sum(info.file_size for info in infos) > size:
        raise ModelError(f"the entries of {where} claim to be larger than the file", _SOURCE)
    return entries
