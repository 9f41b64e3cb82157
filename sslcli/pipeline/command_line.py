"""A request as the command line that asks for the same."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from typing import Any

from sslcli.errors import RecipeError
from sslcli.options.common import Options
from sslcli.options.flags import flag_name
from sslcli.options.steps import STEPS
from sslcli.pipeline.request import Request
from sslcli.recipe.document import parse_value


def command_line(request: Request) -> str:
    """``sslcli VERB MODEL -o OUT --flag value ...``, with the options that are not at their defaults."""
    chosen = request.settings
    sources = [request.source, *request.others]
    baseline = getattr(chosen.step, "baseline", None)
    if baseline is not None:  # the first of the models, on the command line
        sources = [baseline, *(source for source in sources if source != baseline)]
    words = ["sslcli", request.command, *sources]
    if request.output is not None:
        words += ["-o", str(request.output)]
    groups: list[Options] = [chosen.step, chosen.model, chosen.run]
    if STEPS[request.command].data != "no":
        groups.append(chosen.data)
    said: set[str] = {"baseline"}
    for group in groups:
        for name, field in type(group).model_fields.items():
            value = getattr(group, name)
            if name in said or value is None or value == field.get_default(call_default_factory=True):
                continue
            said.add(name)
            words += _flags(name, value)
    return shlex.join(words)


def _flags(name: str, value: Any) -> Iterator[str]:
    flag = flag_name(name)
    if isinstance(value, bool):
        yield flag if value else f"--no-{flag[2:]}"
    elif name == "structures":
        for entry in value:
            place = "" if entry.match == "*" else f"@{entry.match}"
            yield from (flag, f"{entry.name}={entry.strength}{place}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (flag, f"{key}={_scalar(item)}")
    elif isinstance(value, list):
        for item in value:
            yield from (flag, _word(item))
    elif isinstance(value, tuple):
        yield from (flag, ",".join(_word(item) for item in value))
    else:
        yield from (flag, _word(value))


def _scalar(value: object) -> str:
    """A value that is read as a YAML scalar; text that would be read as something else is quoted."""
    plain = _word(value)
    with contextlib.suppress(RecipeError):
        if parse_value(plain) == value:
            return plain
    if isinstance(value, float) and "." not in plain:
        return plain.replace("e", ".0e")  # a number to YAML 1.1
    return json.dumps(value)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
