"""Sample inputs inside a `.pt2`: a pickle, of which only tensors and plain containers are read."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from sslcli.checkpoint.archive import Archive
from sslcli.errors import ModelError, kind_of

_MAX_BYTES = 1 << 30
_MAX_DEPTH = 20
_PLAIN_INPUTS = "export the model with plain tensors as inputs"


def read_samples(archive: Archive, name: str) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The positional and keyword inputs that a program was exported with; None where there are none.

    Raises:
        ModelError: the pickle holds anything else than tensors, numbers and plain containers.
    """
    if name not in archive.names() or archive.size(name) == 0:
        return None
    content = archive.read(name, _MAX_BYTES)
    where = f"{name} in {archive.where}"
    Archive(content, where).close()  # bounds the inner archive before torch reads it
    try:
        loaded = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises anything at what is not tensors
        raise ModelError(
            f"{where} holds more than tensors, which could run code",
            _PLAIN_INPUTS,
        ) from error
    if not (isinstance(loaded, tuple) and len(loaded) == 2 and isinstance(loaded[0], tuple)):
        raise ModelError(f"{where} is no pair of positional and keyword inputs", "export the model again")
    args, kwargs = _plain(loaded[0], where, 0), _plain(loaded[1], where, 0)
    if not isinstance(kwargs, dict):
        raise ModelError(f"{where} is no pair of positional and keyword inputs", "export the model again")
    return args, kwargs


def _plain(value: Any, where: str, depth: int) -> Any:
    """The value with every tensor contiguous and its own; containers become tuple, list and dict."""
    if depth > _MAX_DEPTH:
        raise ModelError(f"{where} is nested too deeply", _PLAIN_INPUTS)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Tensor) and type(value) is Tensor and value.layout == torch.strided:
        if value.numel() * value.element_size() > _MAX_BYTES:
            raise ModelError(f"{where} holds a tensor of more than {_MAX_BYTES >> 30} GB", _PLAIN_INPUTS)
        return value.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {str(key): _plain(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(item, where, depth + 1) for item in value)
    if isinstance(value, list):
        return [_plain(item, where, depth + 1) for item in value]
    raise ModelError(f"{where} holds {kind_of(value)}", _PLAIN_INPUTS)
