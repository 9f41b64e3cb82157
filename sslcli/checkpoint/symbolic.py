"""Arithmetic on sizes in a program: Python's own, so its numbers have no end.

A chain of forty `x * x` would take all memory at the first run. The degree of a value is how many sizes are
multiplied in it; no network needs more than a few.
"""

from __future__ import annotations

from typing import Any

from sslcli.errors import ModelError

_MAX_DEGREE = 32
_MAX_EXPONENT = 8
_NUMBERS = frozenset({"as_int", "as_float", "as_bool", "as_sym_int", "as_sym_float", "as_sym_bool"})


def check_arithmetic(program: dict[str, Any], where: str) -> None:
    """Refuse operators of Python that are given texts or lists, or that would make endless numbers.

    Raises:
        ModelError: there are such.
    """
    degrees: dict[str, int] = {}
    for node in program["graph_module"]["graph"]["nodes"]:
        target: str = node["target"]
        if target.startswith("torch.ops.") or target == "_operator.getitem":
            continue
        arguments = [entry["arg"] for entry in node["inputs"]]
        if not all(_NUMBERS & argument.keys() for argument in arguments):
            raise _refused(where, f"{target} is given something else than numbers")
        degree = _degree(target, arguments, degrees)
        if degree > _MAX_DEGREE:
            raise _refused(where, f"{target} multiplies more than {_MAX_DEGREE} sizes")
        for output in node["outputs"]:
            degrees[_name(output)] = degree


def _degree(target: str, arguments: list[dict[str, Any]], degrees: dict[str, int]) -> int:
    each = [degrees.get(_name(argument), 1) for argument in arguments]
    if target.endswith(".mul"):
        return sum(each)
    if target.endswith(".pow"):
        exponent = arguments[-1].get("as_int")
        return each[0] * abs(exponent) if exponent is not None and abs(exponent) <= _MAX_EXPONENT else 1 << 30
    return max(each, default=1)


def _name(argument: dict[str, Any]) -> str:
    (value,) = argument.values()
    return str(value.get("as_name", "")) if isinstance(value, dict) else ""


def _refused(where: str, what: str) -> ModelError:
    return ModelError(
        f"{where} is not a program that may be loaded: {what}",
        "do not use this file unless you know who made it",
    )
