"""Options of ``inspect`` and ``evaluate``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sslcli.options.common import Options


class InspectOptions(Options):
    """What is shown of a model."""

    layers: str = Field("*", description="Glob of the layers shown.")


class EvaluateOptions(Options):
    """What a model is measured on."""

    split: Literal["test", "validation", "train"] = Field("test", description="Split that is measured.")
