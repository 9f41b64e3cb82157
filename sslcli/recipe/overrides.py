"""``--set KEY=VALUE``: values of a recipe changed from the command line.

A key is the path to the value with dots: ``seed``, ``model.arch``, ``data.batch_size``,
``steps.sparse.epochs``. ``steps.`` may be left out, and what follows a step's id is one of its options
(``uses`` and ``needs`` are the step's own keys). The value is read as YAML.
"""

from __future__ import annotations

from typing import Any

from sslcli.errors import RecipeError, UsageError
from sslcli.options.validation import Key, nearest
from sslcli.recipe.document import Document, parse_value

TOP = ("version", "seed", "model", "data", "steps")
_STEP_KEYS = ("id", "uses", "needs", "with")


def override(document: Document, setting: str) -> None:
    """Apply one ``KEY=VALUE`` to ``document`` in place.

    Raises:
        UsageError: not of that form, or a step that is not there.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {setting!r} is not KEY=VALUE", "such as --set steps.sparse.epochs=5")
    try:
        value = parse_value(text)
    except RecipeError as error:
        raise UsageError(f"the value of --set {setting!r} is not YAML ({error.what})", "quote it") from error
    path = _resolve(document, key.split("."), setting)
    _assign(document.values, path, value, setting)
    document.places[path] = f"--set {key}"


def _resolve(document: Document, parts: list[str], setting: str) -> tuple[Key, ...]:
    if parts[0] in TOP and parts[0] != "steps":
        return tuple(parts)
    rest = parts[1:] if parts[0] == "steps" else parts
    steps = document.values.get("steps")
    ids = [step.get("id") for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    if not rest or rest[0] not in ids:
        known = [str(identifier) for identifier in ids]
        word = rest[0] if rest else "steps"
        hint = nearest(word, [*known, *TOP]) or f"steps are {', '.join(known)}"
        raise UsageError(f"--set {setting}: no step is called '{word}'", hint)
    if len(rest) == 1:
        raise UsageError(f"--set {setting}: say which option of step '{rest[0]}'", "such as STEP.epochs=5")
    inner = rest[1:] if rest[1] in _STEP_KEYS else ["with", *rest[1:]]
    return ("steps", ids.index(rest[0]), *inner)


def _assign(values: Any, path: tuple[Key, ...], value: object, setting: str) -> None:
    for part in path[:-1]:
        if isinstance(values, dict):
            if values.get(str(part)) is None:
                values[str(part)] = {}
            values = values[str(part)]
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part]
        else:
            break
    if not isinstance(values, dict):
        raise UsageError(f"--set {setting}: '{path[-2]}' has no keys of its own", "set the whole value")
    values[str(path[-1])] = value
