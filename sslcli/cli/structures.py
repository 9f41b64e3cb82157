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
    return [_structure(text) for text in texts]


def parse_shares(texts: Sequence[str]) -> dict[str, dict[str, object]]:
    """``filter=0.3 filter=0.5@conv1`` to ``{"filter": {"*": 0.3, "conv1": 0.5}}``."""
    parsed: dict[str, dict[str, object]] = {}
    for text in texts:
        rest, at, glob = text.partition("@")
        name, equals, value = rest.partition("=")
        if not name or not equals or (at and not glob):
            form = "NAME=FRACTION[@GLOB]; such as --share filter=0.3@conv*"
            raise click.UsageError(f"--share {text!r} is not {form}")
        globs = parsed.setdefault(name, {})
        globs.pop(glob or "*", None)  # the last one holds, so it is the last in order too
        globs[glob or "*"] = _number(value, "--share", text)
    return parsed


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


def _structure(text: str) -> dict[str, object]:
    rest, at, glob = text.partition("@")
    name, equals, value = rest.partition("=")
    if not name:
        example = "such as --structure filter=0.005@conv*"
        raise click.UsageError(f"--structure {text!r} is not NAME=STRENGTH[@GLOB]; {example}")
    if at and not glob:
        raise click.UsageError(f"--structure {text!r} has an empty glob after '@'")
    if at and not equals and "=" in glob:
        match, _, number = glob.rpartition("=")
        raise click.UsageError(
            f"--structure {text!r} is not NAME=STRENGTH[@GLOB]; write {name}={number}@{match}"
        )
    strength = {"strength": _number(value, "--structure", text)} if equals else {}
    return {"name": name, **strength, "match": glob or "*"}


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
