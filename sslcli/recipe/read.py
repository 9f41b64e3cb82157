"""From a YAML file to a validated ``Recipe``, or to every problem with its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sslcli.errors import RecipeError, SslcliError, UsageError
from sslcli.options.common import DataOptions, ModelOptions
from sslcli.options.contradictions import check_training
from sslcli.options.names import ARCHITECTURES, DATA_SETS
from sslcli.options.steps import STEPS, own_options, settings
from sslcli.options.validation import Key, OptionsError, Problem, nearest, parse
from sslcli.recipe.document import Document, read_document
from sslcli.recipe.model import ModelKeys, Recipe, RecipeKeys, Step, StepKeys
from sslcli.recipe.overrides import TOP, override

# Options whose value may be the id of an earlier step instead of a file.
REFERENCES = ("baseline", "teacher", "normalize_from")
_START = "model"  # as a teacher: the recipe's own model


def load_recipe(
    path: Path, overrides: Sequence[str] = (), machine: Mapping[str, object] | None = None
) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: the YAML file.
        overrides: ``KEY=VALUE``, as of ``--set``.
        machine: ``device`` and ``threads`` of the steps that do not say them.

    Raises:
        RecipeError: the first problem, ``file:line: sentence``.
        UsageError: an override that does not fit.
    """
    recipe, problems = recipe_problems(path, overrides, machine)
    if recipe is None:
        raise _first(problems, path)
    return recipe


def _first(problems: Sequence[SslcliError], path: Path) -> SslcliError:
    """The first problem, which says how to see the others."""
    first, more = problems[0], len(problems) - 1
    if not more:
        return first
    others = f"for {more} more problem{'s' if more > 1 else ''} see `sslcli recipe validate {path}`"
    return type(first)(first.what, others if first.hint is None else f"{first.hint}; {others}")


def recipe_problems(
    path: Path, overrides: Sequence[str] = (), machine: Mapping[str, object] | None = None
) -> tuple[Recipe | None, Sequence[SslcliError]]:
    """The recipe, or None and all that is wrong with it, in the order of the lines."""
    try:
        document = read_document(path)
    except RecipeError as error:
        return None, [error]
    for setting in overrides:
        override(document, setting)
    try:
        keys = parse(RecipeKeys, document.values)
    except OptionsError as error:
        return None, _errors(document, [*error.problems, *_early_step_problems(document)])
    found = [*_model_problems(keys.model), *_name_problems(keys), *_step_problems(keys)]
    steps: list[Step] = []
    for index, step in enumerate(keys.steps):
        try:
            steps.append(_step(keys, index, step, machine or {}))
        except OptionsError as error:
            found += [_within(("steps", index, "with"), problem) for problem in error.problems]
        else:
            found += _contradictions(steps[-1])
    if found:
        return None, _errors(document, found)
    recipe = _recipe(path, document, keys, steps)
    return replace(recipe, overrides=tuple(overrides), machine=dict(machine or {})), []


def _recipe(path: Path, document: Document, keys: RecipeKeys, steps: list[Step]) -> Recipe:
    return Recipe(
        file=path,
        name=path.stem,
        seed=keys.seed,
        source=keys.model.weights or f"arch:{keys.model.arch}",
        model=ModelOptions.model_validate(_model_values(keys.model)),
        data=DataOptions.model_validate(_data_values(keys)),
        steps=tuple(steps),
        document=document,
    )


def _step(keys: RecipeKeys, index: int, step: StepKeys, machine: Mapping[str, object]) -> Step:
    given = dict(step.values or {})
    run = {"seed": keys.seed, **machine}
    own = own_options(step.uses).model_fields
    defaults = {
        "step": {name: value for name, value in run.items() if name in own},
        "model": _model_values(keys.model),
        "data": _data_values(keys),
        "run": run,
    }
    named = {"teacher": keys.model.weights} if given.get("teacher") == _START else {}
    chosen = settings(step.uses, {**given, **named}, defaults)
    return Step(step.id, step.uses, _inputs(keys, index), _needs(keys, index), given, chosen, index)


def _contradictions(step: Step) -> list[Problem]:
    """Options that are good each alone and do not go together: told before the steps ahead have run."""
    try:
        check_training(step.settings.step)
    except UsageError as error:
        keys = [name for name, value in step.given.items() if value == error.culprit]
        return [Problem(("steps", step.index, "with", *keys[:1]), error.what, error.hint)]
    return []


def _stated(keys: RecipeKeys, index: int) -> list[str]:
    """``needs`` as it is written, or the step before."""
    step = keys.steps[index]
    if isinstance(step.needs, str):
        return [step.needs]
    if step.needs is not None:
        return list(step.needs)
    return [keys.steps[index - 1].id] if index else []


def _inputs(keys: RecipeKeys, index: int) -> tuple[str, ...]:
    """What the step works on: a teacher or baseline among its needs is not that, unless it comes first."""
    stated, named = _stated(keys, index), _named(keys, index)
    return tuple(need for need in stated if need == stated[0] or need not in named)


def _needs(keys: RecipeKeys, index: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*_stated(keys, index), *_named(keys, index)]))


def _named(keys: RecipeKeys, index: int) -> list[str]:
    """The earlier steps that options name."""
    ids = {other.id for other in keys.steps[:index]}
    values = [(keys.steps[index].values or {}).get(name) for name in REFERENCES]
    return [value for value in values if isinstance(value, str) and value in ids]


def _model_values(model: ModelKeys) -> dict[str, Any]:
    return {name: getattr(model, name) for name in ModelOptions.model_fields}


def _data_values(keys: RecipeKeys) -> dict[str, Any]:
    values = {name: getattr(keys.data, name) for name in DataOptions.model_fields}
    values["data"] = keys.data.name or keys.data.data
    return values


def _model_problems(model: ModelKeys) -> list[Problem]:
    if model.weights or model.arch:
        return []
    return [Problem(("model",), "the model has neither 'arch' nor 'weights'", "give one of them")]


def _name_problems(keys: RecipeKeys) -> list[Problem]:
    """Names without a colon must be built in; what others mean is found out when they are loaded."""
    values = _data_values(keys)["data"]
    spelt = "name" if keys.data.name else "data"
    return [
        *_unknown_name(("model", "arch"), "architecture", keys.model.arch, ARCHITECTURES),
        *_unknown_name(("data", spelt), "data set", values, DATA_SETS),
    ]


def _unknown_name(
    path: tuple[Key, ...], what: str, name: str | None, known: tuple[str, ...]
) -> list[Problem]:
    if not name or ":" in name or name in known:
        return []
    hint = nearest(name, known) or f"built in are {', '.join(known)}; others have the form PLACE:NAME"
    return [Problem(path, f"there is no {what} '{name}'", hint, name)]


def _step_problems(keys: RecipeKeys) -> list[Problem]:
    """What is wrong between the steps: names that repeat, needs that lead nowhere."""
    problems: list[Problem] = []
    earlier: dict[str, StepKeys] = {}
    later = {step.id for step in keys.steps}
    for index, step in enumerate(keys.steps):
        path = ("steps", index)
        if step.id in earlier:
            problems.append(Problem((*path, "id"), f"two steps are called '{step.id}'", "rename one"))
        if step.id in TOP:
            problems.append(
                Problem((*path, "id"), f"a step cannot be called '{step.id}'", "that is a key of the recipe")
            )
        for need in _needs(keys, index):
            problems += _need_problems(path, step, need, earlier, later)
        problems += _reference_problems(path, step, earlier, keys.model)
        problems += _model_option_problems(keys, index)
        problems += _unknown_name((*path, "with", "data"), "data set", _text(step, "data"), DATA_SETS)
        problems += _product_problems(keys, index, earlier)
        earlier[step.id] = step
    return problems


def _need_problems(
    path: tuple[Key, ...], step: StepKeys, need: str, earlier: dict[str, StepKeys], later: set[str]
) -> list[Problem]:
    where = (*path, "needs")
    if need in earlier:
        return []
    if need == step.id or need in later:
        return [Problem(where, f"step '{step.id}' needs '{need}', which is not before it", "move it up")]
    hint = nearest(need, earlier) or _choice(earlier, "leave 'needs' out")
    return [Problem(where, f"step '{step.id}' needs '{need}', which is no step", hint)]


def _choice(earlier: dict[str, StepKeys], otherwise: str) -> str:
    if earlier:
        return f"steps before it are {', '.join(earlier)}"
    return f"it is the first step, so {otherwise}"


def _reference_problems(
    path: tuple[Key, ...], step: StepKeys, earlier: dict[str, StepKeys], model: ModelKeys
) -> list[Problem]:
    """An option that names neither an earlier step nor anything that could be a file or an architecture."""
    problems = []
    for name in REFERENCES:
        value = (step.values or {}).get(name)
        if isinstance(value, str) and value in earlier:
            problems += _made_problems((*path, "with", name), name, earlier[value])
            continue
        if not isinstance(value, str) or any(mark in value for mark in "./:\\"):
            continue
        if (name, value) == ("teacher", _START):
            if not model.weights:
                what = "'teacher' names the recipe's model, which has no weights and so nothing to teach,"
                problems.append(Problem((*path, "with", name), what, "name the step that trains it"))
            continue
        hint = nearest(value, earlier) or _choice(earlier, "name a file")
        what = f"'{name}' names '{value}', neither an earlier step nor a file,"
        problems.append(Problem((*path, "with", name), what, hint))
    return problems


def _model_option_problems(keys: RecipeKeys, index: int) -> list[Problem]:
    """How a model is read, said in a step that is given one of ours, which says itself what it is."""
    step, inputs = keys.steps[index], _inputs(keys, index)
    made = {other.id for other in keys.steps[:index]}
    code = ":" in (_text(step, "arch") or keys.model.arch or "")  # which is named again
    if not inputs or code or (_text(step, "teacher") or inputs[0]) not in made:
        return []
    own = own_options(step.uses).model_fields
    what = f"is about the recipe's own model, and step '{step.id}' works on what '{inputs[0]}' makes,"
    return [
        Problem(("steps", index, "with", name), f"'{name}' {what}", "leave it out")
        for name in ("arch", "arch_arg", "input_shape")
        if name in (step.values or {}) and name not in own
    ]


def _text(step: StepKeys, name: str) -> str | None:
    value = (step.values or {}).get(name)
    return value if isinstance(value, str) else None


def _made_problems(where: tuple[Key, ...], name: str, step: StepKeys) -> list[Problem]:
    """An option that names a step which makes nothing that the option can use."""
    product = STEPS[step.uses].product
    if product == "model" or (product == "onnx" and name == "baseline"):
        return []
    wanted = "model" if product == "none" else "model that torch can run"
    what = f"'{name}' names '{step.id}' ({step.uses}), which makes no {wanted},"
    return [Problem(where, what, "name a step that makes one")]


def _product_problems(keys: RecipeKeys, index: int, earlier: dict[str, StepKeys]) -> list[Problem]:
    """A step must be given something that it can work on."""
    step, inputs = keys.steps[index], _inputs(keys, index)
    source = earlier.get(inputs[0]) if inputs else None
    if source is None:
        return []
    product = STEPS[source.uses].product
    where = ("steps", index, "needs")
    if product == "none":
        what = f"step '{step.id}' comes after '{source.id}' ({source.uses}), which makes no model"
        return [Problem(where, what, f"add 'needs: STEP' with a step that makes one to '{step.id}'")]
    if product == "onnx" and step.uses in ("train", "regularize", "prune"):
        what = f"step '{step.id}' ({step.uses}) cannot work on the ONNX file of '{source.id}'"
        return [Problem(where, what, "add 'needs: STEP' with a step that makes a model")]
    return []


def _early_step_problems(document: Document) -> list[Problem]:
    """Problems of the ``with`` blocks that can be told although the recipe's frame is broken too."""
    problems: list[Problem] = []
    steps = document.values.get("steps")
    for index, step in enumerate(steps if isinstance(steps, list) else []):
        uses = step.get("uses") if isinstance(step, dict) else None
        values = step.get("with") if isinstance(step, dict) else None
        if isinstance(uses, str) and uses in STEPS and isinstance(values, dict):
            try:
                settings(uses, values)
            except OptionsError as error:
                problems += [_within(("steps", index, "with"), problem) for problem in error.problems]
    return problems


def _within(path: tuple[Key, ...], problem: Problem) -> Problem:
    return replace(problem, path=(*path, *problem.path))


def _errors(document: Document, problems: list[Problem]) -> list[SslcliError]:
    placed = [(_place(document, problem), problem) for problem in problems]
    placed.sort(key=lambda pair: _line(pair[0]))
    return [_error(document, place, problem) for place, problem in placed]


def _place(document: Document, problem: Problem) -> str:
    """The line of the problem's path; short forms have no such path, so the value itself is looked for."""
    if problem.path in document.places or problem.value is None:
        return document.place(problem.path)
    return document.find(problem.path, problem.value) or document.place(problem.path)


def _error(document: Document, place: str, problem: Problem) -> SslcliError:
    text = f"{place}: {problem.what}{_context(document, problem.path)}"
    kind = UsageError if place.startswith("--set") else RecipeError
    return kind(text, problem.hint)


def _context(document: Document, path: tuple[Key, ...]) -> str:
    """Which step a problem belongs to, where its sentence does not say it."""
    if len(path) < 3 or path[0] != "steps" or path[2] != "with":
        return ""
    step = document.values["steps"][path[1]]
    return f" in step '{step.get('id')}' ({step.get('uses')})" if isinstance(step, dict) else ""


def _line(place: str) -> int:
    number = place.rpartition(":")[2]
    return int(number) if number.isdigit() else 0
