"""Weights and constants of a `.pt2`: raw records and the JSON that says how each tensor lies in them."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import torch
from torch import Tensor

from sslcli.checkpoint.archive import Archive
from sslcli.checkpoint.program_schema import DTYPES, Schema, parse_json
from sslcli.errors import ModelError

_RECORD = re.compile(r"(?:weight|tensor)_\d{1,9}")
_MAX_OVERLAP = 1 << 20  # elements that a tensor may show beyond those stored (an expanded buffer)
_SOURCE = "do not use this file unless you know who made it"


class Payload:
    """The checked content of one payload config.

    Attributes:
        config: the config as plain JSON, holding nothing but what was checked.
        records: the raw bytes by record name, as the config names them.
        tensors: the tensors by name, each with its own memory.
    """

    def __init__(self, archive: Archive, folder: str, config_name: str) -> None:
        where = f"{config_name} in {archive.where}"
        content = parse_json(archive.read(config_name, Schema.MAX_JSON), where)
        schema = Schema(where)
        self.config: dict[str, Any] = schema.payload_config(content)
        self.records: dict[str, bytes] = {}
        self.tensors: dict[str, Tensor] = {}
        for name, meta in self.config["config"].items():
            record = meta["path_name"]
            if meta["use_pickle"] or meta["tensor_meta"] is None or not _RECORD.fullmatch(record):
                raise ModelError(
                    f"{name} in {archive.where} is a pickle, which could run code",
                    "use the model's class and a state dict instead",
                )
            if record not in self.records:
                self.records[record] = archive.read(f"{folder}{record}")
            self.tensors[name] = _tensor(
                self.records[record], meta["tensor_meta"], f"{name} in {archive.where}"
            )

    def config_json(self) -> bytes:
        """The checked config as JSON."""
        return json.dumps(self.config).encode()


def _tensor(raw: bytes, meta: dict[str, Any], where: str) -> Tensor:
    """The tensor that ``meta`` describes over ``raw``, contiguous and with its own memory."""
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None:
        raise ModelError(f"{where} has an unknown dtype", "use the model's class and a state dict instead")
    sizes, strides = _plain(meta["sizes"], where), _plain(meta["strides"], where)
    offset = _plain([meta["storage_offset"]], where)[0]
    stored, rest = divmod(len(raw), dtype.itemsize)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=False))
    count = math.prod(sizes)
    if rest or len(sizes) != len(strides) or min((*sizes, *strides, offset), default=0) < 0:
        raise ModelError(f"{where} does not fit its {len(raw)} bytes", _SOURCE)
    if count and (last >= stored or count > max(stored, _MAX_OVERLAP)):
        raise ModelError(f"{where} claims {count} elements, but {stored} are stored", _SOURCE)
    if not count:
        return torch.empty(sizes, dtype=dtype)
    flat = torch.frombuffer(bytearray(raw), dtype=dtype)
    return flat.as_strided(sizes, strides, offset).clone(memory_format=torch.contiguous_format)


def _plain(sizes: list[dict[str, Any]], where: str) -> list[int]:
    try:
        return [int(size["as_int"]) for size in sizes]
    except KeyError as error:
        raise ModelError(f"{where} has a shape that is not made of numbers", _SOURCE) from error
