"""Tensors by name, read from `.safetensors` and from pickles without running anything in them."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sslcli.checkpoint.archive import Archive
from sslcli.checkpoint.match import printable
from sslcli.checkpoint.record import METADATA_KEY, Record
from sslcli.errors import ModelError, kind_of
from sslcli.reference import describe, import_path

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # DataParallel and DistributedDataParallel, torch.compile
_SAVE = "save the model's state_dict() and give --arch"
_CUT = "it may be cut short; copy it again"
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


@dataclass(frozen=True)
class States:
    """What a file of weights holds: tensors by name, or a whole module; and its record if it has one."""

    tensors: dict[str, Tensor]
    module: nn.Module | None = None
    record: Record | None = None


def read_safetensors(path: Path) -> States:
    """Read a `.safetensors` file.

    Raises:
        ModelError: its header lies or it is cut short.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, MemoryError) as error:
        raise ModelError(
            f"{path} is not a readable .safetensors file ({describe(error)})",
            "it may be cut short; copy it again",
        ) from error
    text = metadata.get(METADATA_KEY)
    return States(_unprefixed(tensors), record=Record.from_json(text, str(path)) if text else None)


def read_pickle(path: Path, trust_pickle: bool) -> States:
    """Read a `.pt`, `.pth`, `.th` or `.ckpt` file.

    Without ``trust_pickle`` only tensors and plain containers are unpickled (`weights_only`).

    Raises:
        ModelError: it is damaged, or unpickling it would run code and ``trust_pickle`` is False.
    """
    _check_archive(path)
    content = _unpickle_trusted(path) if trust_pickle else _unpickle_weights(path)
    return _states(content, path)


def _check_archive(path: Path) -> None:
    """Bound a zip archive before torch reads it; what is no zip is a pickle of before torch 1.6."""
    with path.open("rb") as stream:
        if stream.read(2) == b"PK":
            Archive(path, str(path)).close()


def _unpickle_weights(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old pickles make torch warn about storages
            return _torch_load(path, weights_only=True)
    except pickle.UnpicklingError as error:
        found = _GLOBAL.search(str(error))
        what = f"the pickle names {found[1]}" if found else "the pickle holds more than tensors"
        raise ModelError(
            f"{path} is not loaded, since unpickling it would run code from the file ({what})",
            f"{_SAVE}; or give --trust-pickle if you trust where it is from",
        ) from error
    except Exception as error:  # a damaged pickle may make the unpickler raise anything
        raise _damaged(path, error) from error


def _unpickle_trusted(path: Path) -> Any:
    try:
        with import_path("here:"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _torch_load(path, weights_only=False)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"{path} needs the code of its classes ({describe(error)})",
            f"run where Python can import them, or {_SAVE}",
        ) from error
    except Exception as error:  # a pickle's own code may raise anything
        raise _damaged(path, error) from error


def _torch_load(path: Path, *, weights_only: bool) -> Any:
    with path.open("rb") as stream:  # given a path, torch would choose a reader by the suffix
        return torch.load(stream, map_location="cpu", weights_only=weights_only)


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path} cannot be read ({describe(error)})", _CUT)


def _states(content: Any, path: Path) -> States:
    if isinstance(content, nn.Module):
        return States({}, module=content)
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{path} holds {kind_of(content)}, not a state dict",
            _SAVE,
        )
    if not _is_state(content):
        for key in _WRAPPERS:
            inner = content.get(key)
            if isinstance(inner, nn.Module):
                return States({}, module=inner)
            if isinstance(inner, Mapping) and _is_state(inner):
                content = inner
                break
        else:
            keys = ", ".join(printable(key) for key in list(content)[:8])
            raise ModelError(
                f"{path} holds no state dict (its keys are: {keys or 'none'})",
                _SAVE,
            )
    return States(_unprefixed(dict(content)))


def _is_state(content: Mapping[Any, Any]) -> bool:
    items = content.items()
    return bool(items) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in items)


def _unprefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
