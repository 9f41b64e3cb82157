"""Shape expressions of exported programs, checked by a small grammar.

torch reads them with `sympy.sympify`, which evaluates Python. Here they are parsed, never evaluated: only
calls of the functions below on symbols, whole numbers and each other pass, and what passes is printed anew.
"""

from __future__ import annotations

import ast
import re

from sslcli.errors import ModelError

SYMBOL = re.compile(r"(?:s|zf)\d{1,6}|(?:u|zuf)\d{1,3}")  # torch counts up to the number of an unbacked one
_MAX_LENGTH = 1000
_MAX_DEPTH = 30
_MAX_INTEGER = 2**63
_MAX_EXPONENT = 8
_FUNCTION_NAMES = """
Add Mul Max Min Abs floor ceiling FloorDiv CeilDiv CleanDiv Mod PythonMod ModularIndexing Where Identity
CeilToInt FloorToInt TruncToInt RoundToInt TruncToFloat ToFloat FloatTrueDiv IntTrueDiv
IsNonOverlappingAndDenseIndicator Equality Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan
Eq Ne Lt Le Gt Ge And Or Not Integer Rational Pow PowByNatural Symbol
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_ASSUMPTIONS = frozenset({"positive", "integer", "nonnegative", "negative", "nonpositive", "nonzero", "real"})
_CONSTANTS = frozenset({"true", "false", "oo", "int_oo"})


def check_expression(text: str, where: str) -> str:
    """The expression printed anew from what the grammar understood.

    Raises:
        ModelError: it holds anything else, or could take long to evaluate.
    """
    try:
        tree = _parsed(text)
        _check(tree, 0)
        return ast.unparse(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError, _Refused) as error:
        raise ModelError(
            f"{where} holds a shape expression that is not one ({text[:80]!r}: {error})",
            "do not use this file unless you know who made it",
        ) from error


class _Refused(Exception):  # noqa: N818  a signal inside this module
    pass


def _parsed(text: str) -> ast.expr:
    if len(text) > _MAX_LENGTH or not text.isascii():
        raise _Refused("it is too long or not ASCII")
    return ast.parse(text, mode="eval").body


def _check(node: ast.expr, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _Refused("it is nested too deeply")
    match node:
        case ast.Call(func=ast.Name(id="Symbol")):
            _check_symbol(node)
        case ast.Call(func=ast.Name(id="Pow" | "PowByNatural"), args=[base, exponent], keywords=[]):
            _check_power(base, exponent, depth)
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
            for argument in node.args:
                _check(argument, depth + 1)
        case ast.Constant(value=bool()):
            pass
        case ast.Name(id=name) if name in _CONSTANTS:
            pass
        case _:
            _integer(node)


def _check_symbol(node: ast.Call) -> None:
    match node.args:
        case [ast.Constant(value=str() as name)] if SYMBOL.fullmatch(name):
            pass
        case _:
            raise _Refused("a symbol has another name than torch gives")
    for keyword in node.keywords:
        if keyword.arg not in _ASSUMPTIONS or not isinstance(keyword.value, ast.Constant):
            raise _Refused("a symbol has an unknown assumption")
        if not isinstance(keyword.value.value, bool):
            raise _Refused("an assumption is not true or false")


def _check_power(base: ast.expr, exponent: ast.expr, depth: int) -> None:
    """A power of a power, or one with a large exponent, could fill the memory."""
    if abs(_integer(_unwrapped(exponent))) > _MAX_EXPONENT:
        raise _Refused("an exponent is too large")
    if any(isinstance(n, ast.Name) and n.id in ("Pow", "PowByNatural") for n in ast.walk(base)):
        raise _Refused("it holds a power of a power")
    _check(base, depth + 1)


def _unwrapped(node: ast.expr) -> ast.expr:
    match node:
        case ast.Call(func=ast.Name(id="Integer"), args=[value], keywords=[]):
            return value
    return node


def _integer(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            pass
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as value)):
            value = -value
        case _:
            raise _Refused("it holds something else than functions, symbols and whole numbers")
    if abs(value) > _MAX_INTEGER:
        raise _Refused("a number is too large")
    return value
