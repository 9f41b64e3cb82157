"""A recipe in words."""

from __future__ import annotations

from sslcli.options.steps import STEPS
from sslcli.recipe.model import Recipe, Step


def explain(recipe: Recipe) -> str:
    """One paragraph for the start, one for each step."""
    start = f"a fresh {recipe.source.removeprefix('arch:')} (seed {recipe.seed})"
    if not recipe.source.startswith("arch:"):
        start = f"the weights {recipe.source}"
    data = f", on {recipe.data.data}" if recipe.data.data else ""
    lines = [f"Recipe {recipe.name} starts from {start}{data}. Outputs land in runs/{recipe.name}/.", ""]
    lines += [_step(recipe, number, step) for number, step in enumerate(recipe.steps, 1)]
    return "\n".join(lines)


def _step(recipe: Recipe, number: int, step: Step) -> str:
    source = f"the output of {' and '.join(step.needs)}" if step.needs else "the start model"
    text = f"{number}. {step.id} ({step.uses}), on {source}: {STEPS[step.uses].summary}"
    for name, value in step.given.items():
        text += f"\n     {name} = {_value(value)}{_meaning(step, name)}"
    return text


def _meaning(step: Step, name: str) -> str:
    for group in (step.settings.step, step.settings.data, step.settings.run, step.settings.model):
        field = type(group).model_fields.get(name)
        if field is not None and field.description:
            return f"   ({field.description.rstrip('.')})"
    return ""


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    return str(value)
