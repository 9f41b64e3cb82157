"""The IDX format of MNIST and its relatives, raw or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from sslcli.errors import DataError

UNSIGNED_BYTE = 8


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of unsigned bytes.

    The format: two zero bytes, a type byte, the number of axes, each axis as a big-endian 32-bit
    integer, then the values in row-major order.

    Returns:
        uint8 tensor of the shape that the file states.

    Raises:
        DataError: not an IDX file of unsigned bytes, or shorter or longer than it states.
    """
    content = _read(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE:
        raise DataError(f"{path} is not an IDX file of unsigned bytes", "replace it with the original file")
    axes = content[3]
    start = 4 + 4 * axes
    shape = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(axes)]
    if len(content) != start + math.prod(shape):
        raise DataError(
            f"{path} holds {len(content) - start} values where its header says {math.prod(shape)}",
            "the file is damaged; replace it with the original",
        )
    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path} ({error})", "replace it with the original file") from error
