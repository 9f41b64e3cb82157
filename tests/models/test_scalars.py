import pytest

from sslcli.models.scalars import typed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-0.5", -0.5),
        ("1e-3", 0.001),
        ("true", True),
        ("null", None),
        ("B", "B"),
        ("'1'", "1"),
        ("[16, 32]", [16, 32]),
        ("{a: 1}", "{a: 1}"),
        ("2020-01-01", "2020-01-01"),
        ("[", "["),
        ("nan", "nan"),
        ("!!python/name:os.system ''", "!!python/name:os.system ''"),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_typed(text, value):
    assert typed(text) == value
    assert type(typed(text)) is type(value)
