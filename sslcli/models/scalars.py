"""Arguments of architectures: text to values by YAML's rules for scalars."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

_PLAIN = (bool, int, float, str, type(None))


def typed_args(arguments: Mapping[str, object]) -> dict[str, object]:
    """The arguments with every text replaced by the value that YAML reads in it."""
    return {key: typed(value) if isinstance(value, str) else value for key, value in arguments.items()}


def typed(text: str) -> object:
    """`7` -> 7, `0.5` -> 0.5, `true` -> True, `null` -> None, `[3, 4]` -> [3, 4], `B` -> 'B'.

    Text in quotes stays text. `1e-3` is a number here, as in recipes, although YAML 1.1 wants `1.0e-3`.
    """
    if len(text) > 1000:  # nothing typed by hand is longer; keeps nested brackets from being parsed
        return text
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text
    if isinstance(value, str) and value == text.strip():
        return _number(value)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, list) and all(isinstance(item, _PLAIN) for item in value):
        return value
    return text


def _number(text: str) -> object:
    if not text[:1].isdigit() and text[:1] not in "+-.":
        return text
    try:
        return float(text)
    except ValueError:
        return text
