"""onnxscript's translations of torch's operators, read once in a process.

The exporter asks onnxscript for all of its 500 translations at every export, and each time onnxscript parses
their sources anew: half of the time that a small network takes. They are the same for the whole process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

_ASKED_BY, _OWNER, _CALL = (
    "torch.onnx._internal.exporter._registration",
    "onnxscript_apis",
    "get_torchlib_ops",
)
_read: dict[Callable[..., Any], Callable[..., Any]] = {}  # theirs -> the one that remembers


@contextmanager
def read_once() -> Iterator[None]:
    """Within, exports share the translations that the first of them read.

    Those who export by themselves are left alone. A torch that is built otherwise just reads them again.
    """
    owner = _owner()
    original = getattr(owner, _CALL, None)
    if not callable(original) or original in _read.values():  # another torch, or within already
        yield
        return
    own = vars(owner).get(_CALL)
    setattr(owner, _CALL, _read.setdefault(original, functools.cache(original)))
    try:
        yield
    finally:
        if own is None:
            delattr(owner, _CALL)
        else:
            setattr(owner, _CALL, own)


def _owner() -> Any:
    try:
        return getattr(import_module(_ASKED_BY), _OWNER, None)
    except ImportError:
        return None
