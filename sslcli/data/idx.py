"""The IDX format of MNIST and its relatives, raw or gzipped."""

from __future__ import annotations

import contextlib
import gzip
import math
import zlib
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from sslcli.errors import DataError

UNSIGNED_BYTE = 8
_MAX_BYTES = 1 << 30  # MNIST has 47 MB


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of unsigned bytes.

    The format: two zero bytes, a type byte, the number of axes, each axis as a big-endian 32-bit
    integer, then the values in row-major order.

    Returns:
        uint8 tensor of the shape that the file states.

    Raises:
        DataError: not an IDX file of unsigned bytes, or shorter or longer than it states.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if packed else contextlib.nullcontext(file) as stream:
                return _read(stream, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path} ({error})", "replace it with the original file") from error


def _read(stream: IO[bytes] | gzip.GzipFile, path: Path) -> Tensor:
    """What the header says and a byte more is read, so that a file cannot be larger unpacked than it says."""
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] != UNSIGNED_BYTE:
        raise DataError(f"{path} is not an IDX file of unsigned bytes", "replace it with the original file")
    sizes = stream.read(4 * head[3])
    shape = [int.from_bytes(sizes[place : place + 4], "big") for place in range(0, len(sizes), 4)]
    count = math.prod(shape)
    if len(sizes) < 4 * head[3] or count > _MAX_BYTES:
        raise DataError(
            f"{path} is cut short or its header says {count} values", "replace it with the original file"
        )
    content = stream.read(count + 1)
    if len(content) != count:
        found = len(content) if len(content) < count else f"more than {count}"
        raise DataError(
            f"{path} holds {found} values where its header says {count}",
            "the file is damaged; replace it with the original",
        )
    if count == 0:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(shape)
