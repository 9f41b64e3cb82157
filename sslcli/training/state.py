"""The state of a run on disk: enough to continue to the same bits."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sslcli.errors import InputError, UsageError
from sslcli.files import atomic_output, write_errors
from sslcli.reference import describe

_VERSION = 4


@dataclass
class RunState:
    """Everything a run needs to go on. Random choices are functions of (seed, epoch, step) and need nothing.

    Args:
        identity: what the run is of, by name; a run continues only where all of it is the same.
        step: optimiser steps done.
        model: the model's state dict.
        optimizer: the optimiser's state dict.
        scaler: the gradient scaler's state dict.
        loss_sum: sum of this epoch's losses so far.
        frozen: for each set held at zero, the groups (bool); None before any is held.
        best: metric, epoch and state dict of the best epoch so far, or None.
        sound: epoch and state dict of the last sound epoch, or None without a controller.
        history: the epochs' records.
        controller: the controller's state, empty without one.
        seconds: spent in training so far.
    """

    identity: dict[str, str]
    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    loss_sum: float
    frozen: list[Any] | None
    best: dict[str, Any] | None
    history: list[dict[str, Any]]
    controller: dict[str, Any] = field(default_factory=dict)
    sound: dict[str, Any] | None = None
    seconds: float = 0.0


def write_state(path: Path, state: RunState) -> None:
    """Replace the state at ``path``; what stood there is intact until the new one is whole."""
    with atomic_output(path) as temporary, write_errors(temporary, RuntimeError):
        torch.save({"version": _VERSION, **vars(state)}, temporary)


def read_state(path: Path, identity: Mapping[str, str]) -> RunState:
    """Read the state at ``path`` for a run of ``identity``.

    Raises:
        InputError: the file is no state of a run.
        UsageError: it is the state of another run; the sentence says what differs.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version = content.pop("version")
        state = RunState(**content)
    except (OSError, EOFError, RuntimeError, ValueError, TypeError, KeyError, AttributeError,
            pickle.UnpicklingError) as error:  # fmt: skip
        raise InputError(
            f"{path} cannot be read as the state of a run ({describe(error)})", "start over with --force"
        ) from error
    if version != _VERSION:
        raise InputError(f"{path} was written by another version of sslcli", "start over with --force")
    differences = _differences(state.identity, identity)
    if differences:
        raise UsageError(
            f"the run that {path} would continue was started otherwise: {'; '.join(differences)}",
            "start over with --force, or choose another output",
        )
    return state


def clear_state(path: Path) -> None:
    """Remove the state of a run whose output is written."""
    path.unlink(missing_ok=True)


def digest(model: nn.Module | None) -> str:
    """A hash of a model's weights, names and shapes; of None: a word for it."""
    if model is None:
        return "none"
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        if isinstance(value, torch.Tensor):
            found.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name} was {before.get(name, 'absent')} and is {now.get(name, 'absent')}" for name in names]
