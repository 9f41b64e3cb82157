"""A request, or a whole recipe, as the command line that asks for the same."""

from __future__ import annotations

import contextlib
import datetime
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sslcli.errors import RecipeError
from sslcli.options.common import Options
from sslcli.options.flags import flag_name
from sslcli.options.steps import STEPS
from sslcli.pipeline.request import Request
from sslcli.pipeline.results import Made
from sslcli.recipe.document import parse_value
from sslcli.recipe.model import Recipe


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
    for name, group in _chosen(request).items():
        words += _flags(name, getattr(group, name))
    return shlex.join(words)


def run_command_line(recipe: Recipe, folder: Path) -> str:
    """``sslcli run RECIPE --set KEY=VALUE ...``, with all that was changed in the recipe."""
    words = ["sslcli", "run", str(recipe.file)]
    if folder != Path("runs") / recipe.name:
        words += ["-o", str(folder)]
    for setting in recipe.overrides:
        words += ["--set", setting]
    for name, value in recipe.machine.items():
        words += _flags(name, value)
    return shlex.join(words)


def made(request: Request) -> Made:
    """Where a result of ``request`` comes from, done now."""
    options = {
        name: group.model_dump(mode="json", include={name}, exclude_none=True)[name]
        for name, group in _chosen(request).items()
    }
    return Made(command_line(request), options, request.settings.run.seed, now())


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _chosen(request: Request) -> dict[str, Options]:
    """The group of each option that is not at its default; a baseline is one of the models."""
    settings = request.settings
    groups: list[Options] = [settings.step, settings.model, settings.run]
    # where nothing else says what an architecture takes, a sample of the data does
    unknown_shape = settings.model.arch is not None and settings.model.input_shape is None
    if STEPS[request.command].data != "no" or unknown_shape:
        groups.append(settings.data)
    found: dict[str, Options] = {}
    seen = {"baseline"}
    for group in groups:
        for name, field in type(group).model_fields.items():
            value = getattr(group, name)
            if name in seen or value is None:
                continue
            seen.add(name)  # the step's own, also at its default: batch_size is not that of the data
            if value != field.get_default(call_default_factory=True):
                found[name] = group
    return found


def _flags(name: str, value: Any) -> Iterator[str]:
    flag = flag_name(name)
    if isinstance(value, bool):
        yield flag if value else f"--no-{flag[2:]}"
    elif name == "shares" or (name == "structures" and not all(isinstance(entry, str) for entry in value)):
        for entry in value:
            place = "" if entry.match == "*" else f"@{entry.match}"
            number = entry.fraction if name == "shares" else entry.strength
            yield from (flag, f"{entry.name}={number}{place}")
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
