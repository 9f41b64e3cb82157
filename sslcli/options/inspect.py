"""Options of inspect and evaluate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sslcli.options.common import Options, task_field


class InspectOptions(Options):
    """What inspect shows."""

    groups: bool = Field(
        False,
        description="List the group sets of every structure: how many groups are zero and how "
        "large the others are, by root mean square, from which a --threshold for prune is read.",
    )
    sensitivity: bool = Field(
        False, description="Accuracy against the share of each layer's filters removed; needs data."
    )
    task: str | None = task_field()


class EvaluateOptions(Options):
    """What evaluate measures."""

    split: Literal["test", "validation", "train"] = Field("test", description="Which part of the data.")
    task: str | None = task_field()
