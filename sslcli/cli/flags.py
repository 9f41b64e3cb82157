"""Option models to click options and back, so that help, recipe schema and defaults cannot drift.

One field is one option: ``--kebab-name``; bool is ``--x/--no-x``; a tuple is ``a,b,c``; a dict repeats as
``NAME=VALUE``; a list repeats; a Literal is a choice. An option that is not given is not passed on, so
that the model's own default holds.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sslcli.cli.structures import SPECIAL
from sslcli.errors import RecipeError
from sslcli.options.common import Options
from sslcli.options.flags import flag_name
from sslcli.options.validation import OptionsError
from sslcli.recipe.document import parse_value

SET_HELP = (
    "Change a value of the recipe: seed=1, data.batch_size=32, steps.sparse.epochs=5; repeats."
    "  [default: none]"
)
_SHORT = {"batch_size": "-b"}
_SECTIONS = {"step": "Options", "model": "Model", "data": "Data", "run": "Run"}


class Option(click.Option):
    """A click option that knows its section of the help."""

    section = "Options"


def field_options(groups: Mapping[str, type[Options]], leave_out: Iterable[str] = ()) -> list[Option]:
    """The options of all fields of all groups, a name that repeats once."""
    options: dict[str, Option] = {}
    for group, kind in groups.items():
        for name, field in kind.model_fields.items():
            if name not in options and name not in leave_out:
                options[name] = _option(name, field)
                options[name].section = _SECTIONS[group]
    return list(options.values())


def given(groups: Mapping[str, type[Options]], parameters: Mapping[str, Any]) -> dict[str, object]:
    """The values that the user gave, as the option models take them."""
    fields = {name: field for kind in groups.values() for name, field in kind.model_fields.items()}
    return {
        name: _convert(name, fields[name], value)
        for name, value in parameters.items()
        if name in fields and value not in (None, ())
    }


def usage_error(error: OptionsError) -> click.UsageError:
    """The first problem as a sentence about a flag."""
    problem = error.problems[0]
    name = str(problem.path[0]) if problem.path else ""
    what = problem.what.replace(f"'{name}'", flag_name(name), 1) if name else problem.what
    return click.UsageError(what if problem.hint is None else f"{what}; {problem.hint}")


def _option(name: str, field: FieldInfo) -> Option:
    kind = _plain(field.annotation)
    flag = flag_name(name)
    declared = [flag, name]
    arguments: dict[str, Any] = {
        "help": _help(name, field),
        "envvar": f"SSLCLI_{name.upper()}",
        "default": None,
    }
    if name in _SHORT:
        declared.insert(0, _SHORT[name])
    if name in SPECIAL:
        arguments |= {"multiple": True, "metavar": SPECIAL[name].metavar}
    elif kind is bool:
        declared[declared.index(flag)] = f"{flag}/--no-{flag[2:]}"
    else:
        arguments |= _value_arguments(kind)
    return Option(declared, **arguments)


def _value_arguments(kind: Any) -> dict[str, Any]:
    origin = get_origin(kind)
    if origin is Literal:
        return {"type": click.Choice([str(word) for word in get_args(kind)])}
    if origin is dict:
        return {"multiple": True, "metavar": "NAME=VALUE"}
    if origin is list:
        return {"multiple": True}
    if origin is tuple:
        return {"metavar": "A,B,...", "multiple": _is_words(kind)}
    if kind in (int, float):
        return {"type": kind}
    return {"type": str}


def _convert(name: str, field: FieldInfo, value: Any) -> object:
    if name in SPECIAL:
        return SPECIAL[name].parse(value)
    kind = _plain(field.annotation)
    origin = get_origin(kind)
    if origin is dict:
        return dict(_pair(item, flag_name(name)) for item in value)
    if origin is tuple:
        texts = [value] if isinstance(value, str) else value
        return [part.strip() for text in texts for part in text.split(",") if part.strip()]
    if origin is list:
        return list(value)
    return value


def _is_words(kind: Any) -> bool:
    """Whether a tuple is of words, which may be given one by one too."""
    item = _plain(get_args(kind)[0])
    return item is str or get_origin(item) is Literal


def _pair(text: str, flag: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{flag} {text!r} is not NAME=VALUE")
    try:
        return name, parse_value(value)
    except RecipeError:
        return name, value


def _help(name: str, field: FieldInfo) -> str:
    text = field.description or name
    if field.is_required():
        return f"{text}  [required]"
    default = field.default if field.default is not PydanticUndefined else None
    shown = _shown(default)
    return f"{text}  [default: {shown}]" if shown else text


def _shown(value: object) -> str:
    if value is None or value == () or value == {} or value == []:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ",".join(str(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{name}={item}" for name, item in value.items())
    return str(value)


def _plain(annotation: Any) -> Any:
    """The annotation without None and without Annotated; str for what is none of the known kinds."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [item for item in get_args(annotation) if item is not type(None)]
        return _plain(rest[0]) if len(rest) == 1 else str
    return annotation
