"""Structure of inputs and outputs (pytree specs) in exported programs: plain containers only."""

from __future__ import annotations

import json
import re
from typing import Any

from sslcli.errors import ModelError

_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_KEY = re.compile(r"[\w .:/-]{1,200}", re.ASCII)
_MAX_DEPTH = 30
_MAX_CHILDREN = 10_000


def check_treespec(text: str, where: str) -> str:
    """The spec printed anew from what was understood.

    Raises:
        ModelError: it names another container than tuple, list and dict, whose class would be looked up.
    """
    try:
        return json.dumps([1, _checked(_spec(text), 0)])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(
            f"{where} describes inputs or outputs that are not plain tuples, lists and dicts ({error})"[:300],
            "export the model with plain containers",
        ) from error


def _spec(text: str) -> Any:
    protocol, spec = json.loads(text)
    if protocol != 1:
        raise ValueError(f"protocol {protocol}")
    return spec


def _checked(spec: Any, depth: int) -> dict[str, Any]:
    kind, context, children = spec["type"], spec["context"], spec["children_spec"]
    if depth > _MAX_DEPTH or not isinstance(children, list) or len(children) > _MAX_CHILDREN:
        raise ValueError("it is too large")
    if kind is None:
        if children or context is not None:
            raise ValueError("a leaf has content")
    elif kind not in _CONTAINERS:
        raise ValueError(f"{str(kind)[:60]!r}")
    elif not _is_plain(json.loads(context), len(children)):
        raise ValueError("a container's keys are not texts")
    else:
        context = json.dumps(json.loads(context))
    return {
        "type": kind,
        "context": None if kind is None else json.dumps(json.loads(context)),
        "children_spec": [_checked(c, depth + 1) for c in children],
    }


def _is_plain(context: Any, count: int) -> bool:
    """`null` for sequences; the keys for dicts."""
    if context is None:
        return True
    if not isinstance(context, list) or len(context) != count:
        return False
    return all(type(key) is int or (isinstance(key, str) and _KEY.fullmatch(key)) for key in context)
