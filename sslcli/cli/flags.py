"""Option models to click options and back, so that help, recipe schema and defaults cannot drift.

One field is one option: ``--kebab-name``; bool is ``--x/--no-x``; a tuple is ``a,b,c``; a dict repeats as
``NAME=VALUE``; a list repeats; a Literal is a choice. An option that is not given is not passed on, so
that the model's own default holds.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sslcli.cli.completion import FIELDS
from sslcli.cli.structures import SPECIAL, Special
from sslcli.errors import RecipeError
from sslcli.options.common import Options
from sslcli.options.flags import flag_name
from sslcli.options.validation import OptionsError
from sslcli.recipe.document import parse_value

SET_HELP = (
    "Change a value of the recipe: seed=1, data.batch_size=32, steps.sparse.epochs=5; repeats."
    "  [default: none]"
)
# How the parts of a flag's value are called; those of a mapping are the user's own words.
_PARTS = {
    ("structures", "name"): "{}",
    ("structures", "strength"): "the strength of {}",
    ("structures", "match"): "the glob of {}",
    ("shares", "name"): "{}",
    ("shares", "fraction"): "the fraction of {}",
    ("shares", "match"): "the glob of {}",
}
_PAIRS = {"limit": "GLOB=FRACTION"}
_SHORT = {"batch_size": "-b"}
_SECTIONS = {"step": "Options", "model": "Model", "data": "Data", "run": "Run"}


class Option(click.Option):
    """A click option that knows its section of the help."""

    section = "Options"

    def variable(self, ctx: click.Context) -> str | None:
        """The variable of the environment that the value came from; None where it is from a flag."""
        if self.name is None or ctx.get_parameter_source(self.name) != ParameterSource.ENVIRONMENT:
            return None
        own = [self.envvar] if isinstance(self.envvar, str) else list(self.envvar or ())
        prefixed = f"{ctx.auto_envvar_prefix}_{self.name.upper()}"
        return next((name for name in own if os.environ.get(name)), prefixed)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """What click's own errors call it."""
        return (self.variable(ctx) if ctx is not None else None) or super().get_error_hint(ctx)


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
    """The first problem as a sentence about a flag, or about the variable that was set for it."""
    problem = error.problems[0]
    context = click.get_current_context(silent=True)
    names = [part for part in problem.path if isinstance(part, str)]
    if names:
        what = _about_flag(problem.what, names, _spoken(names[0], context))
    else:  # a sentence about how several fields go together
        what = re.sub(r"'(\w+)'", lambda match: _spoken(match[1], context), problem.what)
    message = what if problem.hint is None else f"{what}; {problem.hint}"
    return click.UsageError(message, context)


def _about_flag(what: str, names: list[str], flag: str) -> str:
    """The sentence with ``flag`` for the field's name, and what is meant of the flag's value."""
    spoken = flag
    if len(names) > 1:
        spoken = _PARTS.get((names[0], names[1]), f"{{}} {names[1]}").format(flag)
    return what.replace(f"'{'.'.join(names)}'", spoken, 1).replace(f"'{names[0]}'", flag, 1)


def _spoken(name: str, context: click.Context | None) -> str:
    """The flag of a field, or the variable of the environment that the value came from."""
    option = next((item for item in context.command.params if item.name == name), None) if context else None
    variable = option.variable(context) if isinstance(option, Option) and context is not None else None
    return variable or flag_name(name)


def _option(name: str, field: FieldInfo) -> Option:
    kind = _plain(field.annotation)
    flag = flag_name(name)
    declared = [flag, name]
    arguments: dict[str, Any] = {
        "help": _help(name, field),
        "envvar": f"SSLCLI_{name.upper()}",
        "default": None,
        "shell_complete": FIELDS.get(name),
    }
    if name in _SHORT:
        declared.insert(0, _SHORT[name])
    special = _special(name, kind)
    if special is not None:
        arguments |= {"multiple": True, "metavar": special.metavar}
    elif kind is bool:
        declared[declared.index(flag)] = f"{flag}/--no-{flag[2:]}"
    else:
        arguments |= _value_arguments(name, kind)
    return Option(declared, **arguments)


def _value_arguments(name: str, kind: Any) -> dict[str, Any]:
    origin = get_origin(kind)
    if origin is Literal:
        return {"type": click.Choice([str(word) for word in get_args(kind)])}
    if origin is dict:
        return {"multiple": True, "metavar": _PAIRS.get(name, "NAME=VALUE")}
    if origin is list:
        return {"multiple": True}
    if origin is tuple:
        return {"metavar": "A,B,...", "multiple": _is_words(kind)}
    if kind in (int, float):
        return {"type": kind}
    return {"type": str}


def _convert(name: str, field: FieldInfo, value: Any) -> object:
    kind = _plain(field.annotation)
    special = _special(name, kind)
    if special is not None:
        return special.parse(value)
    origin = get_origin(kind)
    if origin is dict:
        return dict(_pair(item, flag_name(name), _PAIRS.get(name, "NAME=VALUE")) for item in value)
    if origin is tuple:
        texts = [value] if isinstance(value, str) else value
        return [part.strip() for text in texts for part in text.split(",") if part.strip()]
    if origin is list:
        return list(value)
    return value


def _special(name: str, kind: Any) -> Special | None:
    """The grammar of a flag, if it has one; the structures of prune are names alone."""
    return None if get_origin(kind) is tuple and _is_words(kind) else SPECIAL.get(name)


def _is_words(kind: Any) -> bool:
    """Whether a tuple is of words, which may be given one by one too."""
    item = _plain(get_args(kind)[0])
    return item is str or get_origin(item) is Literal


def _pair(text: str, flag: str, form: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{flag} {text!r} is not {form}")
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
