import pytest

from sslcli.checkpoint.expressions import check_expression
from sslcli.errors import ModelError


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Mul(Integer(49), Symbol('s0', positive=True, integer=True))",
        "Add(Integer(-1), FloorDiv(Symbol('s0', integer=True), Integer(2)))",
        "Pow(Symbol('s0'), Integer(2))",
        "Max(Integer(1), Symbol('u0', integer=True))",
        "LessThan(Symbol('s0'), Integer(64))",
        "Integer(7)",
        "true",
    ],
)
def test_what_torch_writes_passes(text):
    assert check_expression(text, "here") == text


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "Symbol('s0').__class__",
        "(lambda: 1)()",
        "[x for x in ()]",
        "Symbol(\"s0'); import os; ('\")",
        "Symbol('x')",
        "Symbol('u99999999')",
        "Symbol('s0', cls=Integer)",
        "Symbol('s0', positive=__import__('os'))",
        "Integer(2**999999)",
        "Integer(10**30)",
        "Integer(" + "9" * 30 + ")",
        "Pow(Integer(9), Integer(999999999))",
        "Pow(Integer(9), Symbol('s0'))",
        "Pow(Pow(Integer(9), Integer(8)), Integer(8))",
        "Lambda(Symbol('s0'), Integer(1))",
        "sympify('1')",
        "Add(*[1])",
        "Add(Integer(1), key='x')",
        "Max('a')",
        "f'{1}'",
        "s0 if s1 else s2",
        "s0",
        "open",
        "1.5",
        "Add(" * 200 + ")" * 200,
        "Add(Integer(1)," * 900 + ")" * 900,
        "",
        "\uff33ymbol('s0')",
        "\x00",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ModelError, match="shape expression"):
        check_expression(text, "here")


def test_what_passes_is_printed_anew():
    assert check_expression("Integer( 1 ) # comment", "here") == "Integer(1)"
