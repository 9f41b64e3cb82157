"""How the command line spells an option of the option models."""

from __future__ import annotations

_OTHERWISE = {"structures": "structure", "shares": "share"}  # repeated, so in the singular


def flag_name(field: str) -> str:
    """``--batch-size`` of ``batch_size``."""
    return "--" + _OTHERWISE.get(field, field).replace("_", "-")
