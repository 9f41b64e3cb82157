import ast
import inspect
from pathlib import Path

import pytest

from sslcli import errors

CODES = {
    "SslcliError": 1,
    "UsageError": 2,
    "InputError": 3,
    "RecipeError": 3,
    "ModelError": 3,
    "UnknownShapeError": 3,
    "DataError": 3,
    "PlanError": 3,
    "LayersGoneError": 3,
    "GraphError": 4,
    "TargetError": 5,
    "VerificationError": 6,
    "GateError": 7,
    "DeviceError": 8,
    "OutputError": 9,
    "Interrupted": 130,
}


def test_every_error_has_the_exit_code_of_the_contract():
    found = {
        name: kind.exit_code
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.SslcliError)
    }
    assert found == CODES


@pytest.mark.parametrize(
    ("hint", "text"),
    [(None, "the file is empty"), ("make it again", "the file is empty; make it again")],
)
def test_an_error_is_one_sentence_with_its_hint(hint, text):
    assert str(errors.ModelError("the file is empty", hint)) == text


def calls_of_errors():
    """Every place of the package where an error is made, by file and line."""
    names = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if name in CODES}
    root = Path(errors.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                yield f"{path.relative_to(root)}:{node.lineno}", node


def test_every_error_names_the_next_step():
    found = list(calls_of_errors())
    assert len(found) > 200
    silent = [
        place
        for place, call in found
        if len(call.args) < 2 and not any(keyword.arg == "hint" for keyword in call.keywords)
    ]
    assert silent == []


def test_names_from_files_cannot_break_the_line_or_steer_the_terminal():
    error = errors.PlanError("not valid at conv\n1\x1b[31m", "look\tthere")
    assert str(error) == "not valid at conv 1?[31m; look there"
