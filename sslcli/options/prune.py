"""Options of prune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator

from sslcli.options.common import Options, Positive, task_field

Fraction = Annotated[float, Field(gt=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]
StructureName = Literal["filter", "channel", "shape", "filter2d", "depth", "head", "hidden"]


class PruneOptions(Options):
    """What is removed: zero groups, groups under a threshold, or the least important ones to a target."""

    threshold: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="Remove groups whose root mean square is at most this; default 0 (the zero groups) "
        "without a target or a share.",
    )
    shares: dict[StructureName, dict[str, Part]] = Field(
        default_factory=dict,
        description="Fraction of a structure's groups that goes in every layer that matches, the smallest "
        "first, such as filter=0.3 or filter=0.5@conv1; repeats; of several that match, the last holds; "
        "default: none.",
    )
    structures: tuple[StructureName, ...] = Field(
        ("filter", "channel", "shape", "filter2d", "depth", "head"),
        description="Structures that a threshold above 0 speaks of.",
    )
    target: dict[Literal["macs", "params"], Fraction] = Field(
        default_factory=dict,
        description="What may be left, as a fraction of the original, such as macs=0.5; repeats; "
        "default: no target.",
    )
    importance: Literal["magnitude", "taylor"] = Field(
        "magnitude",
        description="How a target chooses: norms of weights, or first-order loss changes (needs data).",
    )
    keep: tuple[str, ...] = Field(
        (), description="Glob of layers that lose no filter; repeats; default: none."
    )
    limit: dict[str, Fraction] = Field(
        default_factory=dict,
        description="At most this fraction of the filters of layers that match goes; repeats; default: 1.",
    )
    min_width: Positive = Field(1, description="Filters that every layer keeps at least, for a target.")
    align: Positive = Field(
        1, description="Round the filters that a layer keeps up to a multiple; CPU kernels like 8 and 16."
    )
    fold: bool = Field(True, description="Let the next bias take up the constants of removed channels.")
    recalibrate: Annotated[int, Field(ge=0)] = Field(
        0, description="Batches of training data that the batch norms' statistics are computed anew from."
    )
    task: str | None = task_field()

    @field_validator("shares", mode="before")
    @classmethod
    def _shares_of_every_layer(cls, value: object) -> object:
        """``{filter: 0.3}`` is short for ``{filter: {"*": 0.3}}``."""
        if not isinstance(value, Mapping):
            return value
        return {kind: part if isinstance(part, Mapping) else {"*": part} for kind, part in value.items()}

    @field_validator("target", mode="before")
    @classmethod
    def _latency_is_learned(cls, value: object) -> object:
        if isinstance(value, Mapping) and "latency" in value:
            raise ValueError(
                "prune cannot aim at latency, which `sslcli regularize` does; choose macs or params"
            )
        return value
