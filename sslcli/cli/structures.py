"""Flags with a grammar: ``--structure NAME=STRENGTH[@GLOB]``, ``--share``, ``--target NAME=FRACTION``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click


@dataclass(frozen=True)
class Special:
    """How one field is written as a repeated flag."""

    metavar: str
    parse: Callable[[Sequence[str]], object]


def parse_structures(texts: Sequence[str]) -> list[dict[str, object]]:
    """``shape=0.01@conv2`` to ``{"name": "shape", "strength": 0.01, "match": "conv2"}``, in their order."""
    form = Form("--structure", "NAME=STRENGTH[@GLOB]", "filter=0.005@conv*")
    return [_entry(text, "strength", form, may_lack=True) for text in texts]


def parse_shares(texts: Sequence[str]) -> list[dict[str, object]]:
    """``shape=0.3@conv2`` to ``{"name": "shape", "fraction": 0.3, "match": "conv2"}``, in their order."""
    form = Form("--share", "NAME=FRACTION[@GLOB]", "filter=0.3@conv*")
    return [_entry(text, "fraction", form, may_lack=False) for text in texts]


def parse_targets(texts: Sequence[str]) -> dict[str, object]:
    """``macs=0.5 params=0.3`` -> ``{"macs": 0.5, "params": 0.3}``."""
    parsed: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--target {text!r} is not NAME=FRACTION; such as --target macs=0.5")
        if name in parsed:
            raise click.UsageError(f"--target {name} is given twice")
        parsed[name] = _number(value, "--target", text)
    return parsed


@dataclass(frozen=True)
class Form:
    """How a flag is written, for errors."""

    flag: str
    grammar: str
    example: str


def _entry(text: str, number: str, form: Form, *, may_lack: bool) -> dict[str, object]:
    rest, at, glob = text.partition("@")
    name, equals, value = rest.partition("=")
    wrong = f"{form.flag} {text!r} is not {form.grammar}"
    if not name:
        raise click.UsageError(f"{wrong}; such as {form.flag} {form.example}")
    if at and not glob:
        raise click.UsageError(f"{form.flag} {text!r} has an empty glob after '@'")
    if at and not equals and "=" in glob:
        match, _, last = glob.rpartition("=")
        raise click.UsageError(f"{wrong}; write {name}={last}@{match}")
    if not equals and not may_lack:
        raise click.UsageError(f"{wrong}; such as {form.flag} {form.example}")
    given = {number: _number(value, form.flag, text)} if equals else {}
    return {"name": name, **given, "match": glob or "*"}


def _number(value: str, flag: str, text: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise click.UsageError(f"{flag} {text!r}: {value!r} is not a number") from None


SPECIAL = {
    "structures": Special("NAME=STRENGTH[@GLOB]", parse_structures),
    "shares": Special("NAME=FRACTION[@GLOB]", parse_shares),
    "target": Special("NAME=FRACTION", parse_targets),
}
