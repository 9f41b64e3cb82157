"""Options of prune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator

from sslcli.options.common import Options, Positive, task_field
from sslcli.options.entries import named_list

Fraction = Annotated[float, Field(gt=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]
StructureName = Literal["filter", "channel", "shape", "filter2d", "depth", "head", "hidden"]


class ShareOptions(Options):
    """The fraction of a structure's groups that goes in the layers it holds for."""

    name: Literal["filter", "head", "filter2d", "shape", "depth"] = Field(
        description="filter, head, filter2d, shape or depth."
    )
    fraction: Part = Field(description="Of the groups of each layer; of depth of all branches together.")
    match: str = Field("*", description="Glob on the layers' names.", min_length=1)


class PruneOptions(Options):
    """What is removed: zero groups, groups under a threshold, or the least important ones to a target."""

    threshold: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="Remove groups whose root mean square is at most this; default 0 (the zero groups) "
        "without a target or a share.",
    )
    shares: tuple[ShareOptions, ...] = Field(
        (),
        description="Fraction of a structure's groups that goes in each layer, the smallest first, "
        "NAME=FRACTION[@GLOB] with filter, head, filter2d, shape or depth (of all branches together); "
        "repeats; of several that match, the last holds. What is zero or goes with other groups counts. "
        "Default: none.",
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
        description="How targets and shares choose filters: norms of weights, or first-order loss changes "
        "(needs data).",
    )
    keep: tuple[str, ...] = Field(
        (), description="Glob of layers that lose no filter; repeats; default: none."
    )
    limit: dict[str, Fraction] = Field(
        default_factory=dict,
        description="At most this fraction of the filters of layers that match goes, for a target or share; "
        "repeats; default: 1.",
    )
    min_width: Positive = Field(
        1, description="Filters that every layer keeps at least, for a target or share."
    )
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
    def _shares_from_short_forms(cls, value: object) -> object:
        return named_list(value, "fraction")

    @field_validator("target", mode="before")
    @classmethod
    def _latency_is_learned(cls, value: object) -> object:
        if isinstance(value, Mapping) and "latency" in value:
            raise ValueError(
                "prune cannot aim at latency, which `sslcli regularize` does; choose macs or params"
            )
        return value
