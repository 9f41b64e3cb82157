"""Choose what goes to meet a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sslcli.errors import TargetError
from sslcli.graph.slots import Structure
from sslcli.surgery.zero import Zeroing


@dataclass(frozen=True)
class Limits:
    """What a target may not take: layers kept whole, fractions by glob, a least width, a multiple."""

    keep: tuple[str, ...] = ()
    limit: Mapping[str, float] | None = None
    min_width: int = 1
    align: int = 1


def choose(
    structure: Structure,
    zeroing: Zeroing,
    target: Mapping[str, float],
    limits: Limits,
    scores: Mapping[str, Tensor] | None = None,
) -> None:
    """Set the least important units to zero until what is left meets the target."""
    raise TargetError("targets are not here yet")
