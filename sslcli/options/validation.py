"""Values to options, with problems in words: shared by the recipe's lines and the command line's flags."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Key = str | int
M = TypeVar("M", bound=BaseModel)

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping of names to values",
    "model": "a mapping of names to values",
    "mapping": "a mapping of names to values",
}
_BOUNDS = {
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the values given.

    Attributes:
        path: the keys that lead to the value (for an unknown key, to the key itself).
        what: the sentence, without the place.
        hint: the nearest right word, as a question, or None.
        value: the value that is wrong, or the unknown key.
    """

    path: tuple[Key, ...]
    what: str
    hint: str | None = None
    value: object = None


class OptionsError(Exception):
    """Values that do not make options; caught by whoever knows where they were written."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(problem.what for problem in problems))
        self.problems = problems


def parse(kind: type[M], values: Mapping[str, object]) -> M:
    """Validate ``values`` as a ``kind``.

    Raises:
        OptionsError: with every problem, not only the first.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise OptionsError([_problem(kind, detail) for detail in error.errors()]) from None


def nearest(word: str, words: Iterable[str]) -> str | None:
    """``did you mean 'x'?`` for the closest of ``words``, or None where none is close."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else None


def unknown_key(path: tuple[Key, ...], known: Iterable[str]) -> Problem:
    """The problem of a key that nobody knows, with the nearest right one."""
    words = sorted(known)
    hint = nearest(str(path[-1]), words) or f"known keys are {', '.join(words)}"
    return Problem(path, f"unknown key '{path[-1]}'", hint, path[-1])


def _problem(kind: type[BaseModel], detail: Any) -> Problem:
    path = tuple(detail["loc"])
    if detail["type"] == "extra_forbidden":
        return unknown_key(path, _keys_at(kind, path[:-1]))
    if path[-1:] == ("[key]",):
        return _unknown_name(path[:-1], detail)
    name = ".".join(part for part in path if isinstance(part, str))
    if detail["type"] == "missing":
        hint = "add it; `sslcli recipe init` writes a recipe to begin with"
        return Problem(path, f"the key '{name}' is missing", hint)
    if detail["type"] == "value_error":
        text = str(detail["ctx"]["error"])
        return Problem(path, f"'{name}': {text}" if path else text, value=detail["input"])
    if detail["type"] == "literal_error":
        expected, words = _choices(detail)
        choice = f"write {words[0]}" if len(words) == 1 else "choose one of these"
        hint = nearest(str(detail["input"]), words) or choice
        return Problem(
            path, f"'{name}' should be {expected}, not {_shown(detail['input'])}", hint, detail["input"]
        )
    what = f"'{name}' should be {_expected(detail)}, not {_shown(detail['input'])}"
    return Problem(path, what, value=detail["input"])


def _unknown_name(path: tuple[Key, ...], detail: Any) -> Problem:
    """A mapping has a name that none of its values can have."""
    expected, words = _choices(detail)
    hint = nearest(str(path[-1]), words) or f"choose {expected}"
    return Problem(path, f"'{path[-2]}' has no '{path[-1]}'", hint, path[-1])


def _choices(detail: Any) -> tuple[str, list[str]]:
    """What a literal may be, as a sentence says it and as words."""
    expected = str(detail["ctx"]["expected"])
    return expected, [word.strip("' ") for word in expected.replace(" or ", ",").split(",")]


def _expected(detail: Any) -> str:
    if detail["type"] in _BOUNDS:
        return _BOUNDS[detail["type"]].format(**detail["ctx"])
    if detail["type"] == "int_from_float":
        return "a whole number"
    stem = detail["type"].split("_")[0]
    if stem in _KINDS:
        return _KINDS[stem]
    message = str(detail["msg"])
    return message.removeprefix("Input should be ")


def _shown(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys_at(kind: type[BaseModel], path: tuple[Key, ...]) -> list[str]:
    current: Any = kind
    for part in path:
        fields = getattr(current, "model_fields", {})
        current = fields[part].annotation if part in fields else None
    return [field.alias or name for name, field in getattr(current, "model_fields", {}).items()]
