"""Options of ``prune``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sslcli.options.common import Options

Fraction = Annotated[float, Field(gt=0, le=1)]


class PruneOptions(Options):
    """Which groups go."""

    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None,
        description="Remove groups whose norm over the square root of their size is at most this; "
        "default: 0, the groups that are zero.",
    )
    target: dict[Literal["macs", "params"], Fraction] = Field(
        default_factory=dict, description="What may be left, as fractions of the original; repeats."
    )
