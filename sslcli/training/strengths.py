"""What a controller did, as records that a run can be repeated from to the same bits.

A record holds JSON values only. The first has ``run``: how often the controller was asked (``every``), the
steps of the penalised phase, its sets as [structure, label, groups], and what it was ``given``: seed, batch
size and the options that a result depends on (absent in older ones). ``sets`` has those that changed, by
number: [strength, shares of the groups or null]. ``choice`` has the groups that go for good, set by set.
Tensors are their bytes (little endian), compressed, in base64.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslcli.graph.groups import GroupSet
from sslcli.options.training import NEUTRAL, TrainOptions
from sslcli.sparsity.penalty import WeightedSet

# Those of the sets and the course itself, and names of files, which may lie elsewhere another time.
_TOLD_OTHERWISE = NEUTRAL | {"structures", "replay", "task", "teacher"}
_SHARES, _GROUPS = np.dtype("<f4"), np.dtype("u1")


class Recorder:
    """Tells what changed of a penalty since it was last told.

    Args:
        applied: the penalty as it was last told; None: nothing was.
    """

    def __init__(self, applied: Sequence[WeightedSet] | None = None) -> None:
        self._applied = None if applied is None else list(applied)

    def changes(self, penalties: Sequence[WeightedSet]) -> dict[str, Any]:
        """The ``sets`` of a record; empty where nothing changed."""
        before: Sequence[WeightedSet | None] = self._applied or [None] * len(penalties)
        changed = {
            str(number): [now.strength, None if now.shares is None else _packed(now.shares, _SHARES)]
            for number, (now, was) in enumerate(zip(penalties, before, strict=True))
            if was is None or not _same(now, was)
        }
        self._applied = list(penalties)
        return {"sets": changed} if changed else {}


def described(sets: Sequence[GroupSet]) -> list[list[Any]]:
    """The sets of a record's ``run``."""
    return [[group_set.structure, group_set.label, group_set.count] for group_set in sets]


def given(options: TrainOptions, batch_size: int, seed: int) -> dict[str, Any]:
    """The ``given`` of a record's ``run``."""
    return {
        "seed": seed,
        "batch_size": batch_size,
        **options.model_dump(mode="json", exclude=set(_TOLD_OTHERWISE)),
    }


def choice_record(chosen: Sequence[Tensor]) -> dict[str, Any]:
    """The ``choice`` of a record, of a bool mask for each set."""
    return {"choice": [_packed(mask, _GROUPS) for mask in chosen]}


def shares_of(text: object, count: int) -> Tensor:
    """The shares of ``count`` groups; ValueError where the text does not hold them."""
    values = _unpacked(text, count, _SHARES)
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise ValueError("shares of groups are not what they can be")
    return values


def groups_of(text: object, count: int) -> Tensor:
    """The mask of ``count`` groups; ValueError where the text does not hold it."""
    return _unpacked(text, count, _GROUPS).bool()


def _same(now: WeightedSet, was: WeightedSet) -> bool:
    if now.shares is None or was.shares is None:
        return now.strength == was.strength and now.shares is was.shares
    return now.strength == was.strength and torch.equal(now.shares, was.shares)


def _packed(values: Tensor, kind: np.dtype[Any]) -> str:
    content = values.detach().cpu().numpy().astype(kind).tobytes()
    return base64.b64encode(zlib.compress(content, 1)).decode()


def _unpacked(text: object, count: int, kind: np.dtype[Any]) -> Tensor:
    if not isinstance(text, str):
        raise ValueError("values of groups are no text")  # noqa: TRY004  (a file's fault, told as such)
    size = count * kind.itemsize
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    except zlib.error as error:
        raise ValueError("values of groups cannot be unpacked") from error
    if len(content) != size:
        raise ValueError(f"values are not those of {count} groups")
    return torch.from_numpy(np.frombuffer(content, kind).astype(kind.newbyteorder("=")))
