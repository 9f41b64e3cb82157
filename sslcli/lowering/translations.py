"""onnxscript's translations of torch's operators, read once in a process.

The exporter asks onnxscript for all of its 500 translations at every export, and each time onnxscript parses
their sources anew: half of the time that a small network takes. They stay what they are until one is added.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

_ASKED_BY, _OWNER, _CALL = (
    "torch.onnx._internal.exporter._registration",
    "onnxscript_apis",
    "get_torchlib_ops",
)
_REGISTRY = "onnxscript.function_libs.torch_lib.registration"


class _Shared:
    """What was read last, and the exports that share it now."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.exports = 0
        self.restore: Callable[[], None] = lambda: None
        self.read: tuple[Any, Any, Any] | None = None  # by whom, of which functions, what

    def ask(self, original: Callable[[], Any]) -> Any:
        """What ``original`` gives; anew where other functions are registered than at the last time."""
        if self.read is not None and self.read[:2] == (original, _registered()):
            return self.read[2]
        found = original()  # the first time it registers them
        registered = _registered()
        if registered is not None:
            self.read = (original, registered, found)
        return found


_shared = _Shared()


@contextmanager
def read_once() -> Iterator[None]:
    """Within, exports share the translations that the first of them read.

    Those who export by themselves are left alone. A torch that is built otherwise just reads them again.
    """
    with _shared.lock:
        if _shared.exports == 0:
            _shared.restore = _replace()
        _shared.exports += 1
    try:
        yield
    finally:
        with _shared.lock:
            _shared.exports -= 1
            if _shared.exports == 0:
                _shared.restore()


def _replace() -> Callable[[], None]:
    """Put the call that remembers in the place of theirs; gives what takes it out again."""
    owner = _owner()
    original = getattr(owner, _CALL, None)
    if not callable(original):
        return lambda: None
    own = _CALL in vars(owner)
    setattr(owner, _CALL, lambda: _shared.ask(original))
    return (lambda: setattr(owner, _CALL, original)) if own else (lambda: delattr(owner, _CALL))


def _owner() -> Any:
    try:
        return getattr(import_module(_ASKED_BY), _OWNER, None)
    except ImportError:
        return None


def _registered() -> tuple[Any, ...] | None:
    """The functions that onnxscript has for torch's operators; None where it does not tell."""
    try:
        known = import_module(_REGISTRY).default_registry.items()
        return tuple((name, *entry.overloads, *entry.complex) for name, entry in known)
    except (ImportError, AttributeError):
        return None
