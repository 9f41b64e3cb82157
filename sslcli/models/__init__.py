"""Architectures: the paper's networks by name, and factories of others."""

from __future__ import annotations

from sslcli.models.create import ArchKind, build, create, input_shape, kind
from sslcli.models.registry import ARCHITECTURES, Architecture
from sslcli.models.scalars import typed_args

__all__ = [
    "ARCHITECTURES",
    "ArchKind",
    "Architecture",
    "build",
    "create",
    "input_shape",
    "kind",
    "typed_args",
]
