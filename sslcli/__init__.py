"""Structured Sparsity Learning for saved PyTorch models.

The public names are resolved on first use, so that ``import sslcli`` loads neither torch nor onnx.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOMES = {
    "load": "sslcli.checkpoint",
    "save": "sslcli.checkpoint",
    "prune": "sslcli.surgery",
    "inspect": "sslcli.surgery",
    "apply_plan": "sslcli.plan",
    "regularize": "sslcli.targeting",
    "train": "sslcli.targeting",
    "Task": "sslcli.training.task",
    "export": "sslcli.lowering",
    "bench": "sslcli.bench",
}

__all__ = [
    "Task",
    "__version__",
    "apply_plan",
    "bench",
    "export",
    "inspect",
    "load",
    "prune",
    "regularize",
    "save",
    "train",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'sslcli' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
