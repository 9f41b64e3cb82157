"""What training gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sslcli.training.loop import FitResult


@dataclass(frozen=True)
class TrainResult:
    """A trained copy of a model.

    Args:
        model: the copy, on the CPU, in eval mode; ``sslcli.save`` takes the whole result.
        example: inputs that it can be traced with.
        fit: how the run went.
        zero_groups: structure -> {label: number of groups that are exactly zero}, as a record keeps it.
        reached: for a targeted run, what is left and what was lost; empty otherwise.
        plan: None, since training removes nothing.
    """

    model: nn.Module
    example: tuple[Any, ...]
    fit: FitResult
    zero_groups: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    reached: Mapping[str, float] = field(default_factory=dict)
    plan: None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Accuracy (a fraction) and loss on the validation split."""
        return self.fit.metrics
