"""A recipe in words."""

from __future__ import annotations

import re
import textwrap

from sslcli.options.steps import STEPS
from sslcli.recipe.model import Recipe, Step

_WIDTH = 80


def explain(recipe: Recipe) -> str:
    """One paragraph for the start, one for each step, in lines of at most 80 characters."""
    start = f"a fresh {recipe.source.removeprefix('arch:')} (seed {recipe.seed})"
    if not recipe.source.startswith("arch:"):
        start = f"the weights {recipe.source}"
    data = f", on {recipe.data.data}" if recipe.data.data else ""
    begin = f"Recipe {recipe.name} starts from {start}{data}. Outputs land in runs/{recipe.name}/."
    steps = [line for number, step in enumerate(recipe.steps, 1) for line in _step(number, step)]
    return "\n".join([*_wrapped(begin, ""), "", *steps])


def _step(number: int, step: Step) -> list[str]:
    source = f"the output of {' and '.join(step.inputs)}" if step.inputs else "the start model"
    lines = _wrapped(f"{number}. {step.id} ({step.uses}), on {source}: {STEPS[step.uses].summary}", "   ")
    for name, value in step.given.items():
        lines += _wrapped(f"     {name} = {_value(value)}{_meaning(step, name)}", " " * 8)
    return lines


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _meaning(step: Step, name: str) -> str:
    for group in (step.settings.step, step.settings.data, step.settings.run, step.settings.model):
        field = type(group).model_fields.get(name)
        if field is not None and field.description:
            return f"   ({_without_default(field.description)})"
    return ""


def _without_default(description: str) -> str:
    """What an option does, without what holds where it is not given, and without how a flag is written."""
    text = re.split(r"[;.] default\b", description, flags=re.IGNORECASE)[0]
    return re.sub(r"; repeats\b", "", text).rstrip(".")


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    return str(value)
