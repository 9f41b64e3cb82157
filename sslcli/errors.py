"""Exceptions and their exit codes.

SslcliError                 1  internal error
├── UsageError              2  wrong flags or arguments
├── InputError              3  bad recipe, model or data
│   ├── RecipeError
│   ├── ModelError
│   │   └── UnknownShapeError
│   ├── DataError
│   └── PlanError
├── GraphError              4  a graph that cannot be handled
├── TargetError             5  target or accuracy limit not met, training diverged
├── VerificationError       6  outputs differ from the masked original; nothing is written
├── GateError               7  a benchmark gate failed
├── DeviceError             8  a required device or provider is missing
├── OutputError             9  output cannot be written, or another run holds it
└── Interrupted           130  stopped by a signal, state kept

An error is one sentence that says what is wrong and where, and a hint that says what to do next.
It is raised where the fact is known and shown once, in ``cli/main.py``.
"""

from __future__ import annotations


class SslcliError(Exception):
    """Base of every error that sslcli raises on purpose.

    Args:
        what: what is wrong and where, one sentence without the final full stop.
        hint: what to do next, or None where ``what`` already says it.
        culprit: the word of the user's that caused it (a glob, a name), so that a recipe's error can
            name the line it stands on; without it the quoted words of ``what`` are tried.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str | None = None, culprit: str | None = None) -> None:
        self.what = _one_line(what)
        super().__init__(self.what)
        self.hint = None if hint is None else _one_line(hint)
        self.culprit = culprit

    def __str__(self) -> str:
        return self.what if self.hint is None else f"{self.what}; {self.hint}"


def _one_line(text: str) -> str:
    """Names from files can hold line breaks and terminal codes; a message shows none of them."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def kind_of(value: object) -> str:
    """What a value is, with its article: ``an int``, ``a Tensor``, ``None``."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"


class UsageError(SslcliError):
    """Wrong flags or arguments."""

    exit_code = 2


class InputError(SslcliError):
    """A bad recipe, model or data set."""

    exit_code = 3


class RecipeError(InputError):
    """A recipe that does not say what it should; ``what`` begins with file:line."""


class ModelError(InputError):
    """A saved model that cannot be read, or is not what it was said to be."""


class UnknownShapeError(ModelError):
    """Nothing says what the model takes; data, where there is any, may tell."""


class DataError(InputError):
    """A data set that is missing, broken or does not fit the model."""


class PlanError(InputError):
    """A plan that is malformed or does not fit the model it is applied to."""


class LayersGoneError(PlanError):
    """A plan that removes whole layers, which the class calls all the same."""


class GraphError(SslcliError):
    """A network whose graph cannot be traced or handled."""

    exit_code = 4


class TargetError(SslcliError):
    """A target or an accuracy limit that was not met, or training that diverged."""

    exit_code = 5


class VerificationError(SslcliError):
    """The result does not compute what the masked original computes."""

    exit_code = 6


class GateError(SslcliError):
    """A benchmark gate failed."""

    exit_code = 7


class DeviceError(SslcliError):
    """A required device or execution provider is missing."""

    exit_code = 8


class OutputError(SslcliError):
    """An output cannot be written, or another run holds it."""

    exit_code = 9


class Interrupted(SslcliError):  # noqa: N818  (a stop on request is not an error, though it ends the run)
    """Stopped by a signal; the state was kept."""

    exit_code = 130
