"""Options that are lists of a name, a number and a glob, in the short forms that recipes may use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def named_list(value: object, number: str = "strength") -> object:
    """The list form of ``structures`` and ``shares``, whose entries are a name, a number and a glob.

    Takes ``{filter: 5e-3}``, ``{filter: {strength: 5e-3, match: conv*}}``, ``{filter: {conv1: 5e-3, conv2:
    1e-3}}``, ``{filter: [{...}, {...}]}``, a list of full entries, and texts ``filter=5e-3@conv*``; where a
    target finds the strengths, ``{filter: null}`` and ``filter@conv*`` too. Anything else is returned as it
    is, for the validation to complain about.
    """
    if isinstance(value, Mapping):
        return [entry for name, given in value.items() for entry in _entries(name, given, number)]
    if isinstance(value, list | tuple):
        return [_from_text(item, number) if isinstance(item, str) else _copied(item) for item in value]
    return value


def _copied(entry: object) -> object:
    return {**entry} if isinstance(entry, Mapping) else entry


def _entries(name: object, given: object, number: str) -> list[dict[str, Any]]:
    if isinstance(given, list | tuple):
        return [entry for item in given for entry in _entries(name, item, number)]
    if given is None:
        return [{"name": name}]
    if not isinstance(given, Mapping):
        return [{"name": name, number: given}]
    if number in given or "match" in given:
        return [{"name": name, **given}]
    return [{"name": name, number: part, "match": glob} for glob, part in given.items()]


def _from_text(text: str, number: str) -> dict[str, Any]:
    text, at, glob = text.partition("@")
    name, equals, part = text.partition("=")
    return {
        "name": name,
        **({number: part} if equals else {}),
        **({"match": glob} if at else {}),
    }
