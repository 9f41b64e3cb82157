import inspect

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
