"""A recipe's steps in turn, each in its own folder, none run again that has not changed."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sslcli.errors import InputError, OutputError, RecipeError, SslcliError, UsageError
from sslcli.files import atomic_output, lock_output, output_error, remove_leftovers
from sslcli.options.common import ModelOptions
from sslcli.options.steps import STEPS, Settings
from sslcli.pipeline import cache, jobs
from sslcli.pipeline.command_line import command_line, now, run_command_line
from sslcli.pipeline.events import SILENT, Observers, StepEvent
from sslcli.pipeline.globs import check_globs
from sslcli.pipeline.inputs import choose_device
from sslcli.pipeline.outputs import written as written_by
from sslcli.pipeline.presence import check_model, missing
from sslcli.pipeline.request import Request
from sslcli.pipeline.results import Made, RunResult, StepOutcome
from sslcli.pipeline.summary import model_rows
from sslcli.recipe.model import Recipe, Step
from sslcli.recipe.read import REFERENCES
from sslcli.report import to_json

_OUTPUTS = {"model": "model.pt2", "onnx": "model.onnx"}
_STARTED = "started.key"


def run(recipe: Recipe, folder: Path, observers: Observers = SILENT, *, force: bool = False) -> RunResult:
    """Run ``recipe`` into ``folder``.

    Args:
        recipe: validated.
        folder: one folder a step is made in it.
        observers: told when steps begin and end, and how training goes.
        force: run every step, also those that have not changed.

    Raises:
        RecipeError: a value that only now turned out wrong, with its line.
        SslcliError: what a step failed of; the steps before it are kept.
        OutputError: another run works in ``folder``, or it holds other things than a run.
    """
    started = time.monotonic()
    _check_present(recipe)
    _require_run_folder(recipe, folder, force)
    make_folder(folder)
    with lock_output(folder / "run", (folder / "run.json", folder / "report.html")):
        if force or any(step.state != "cached" for step in plan_run(recipe, folder).steps):
            _check_devices(recipe)
            check_globs(recipe)
        outcomes: list[StepOutcome] = []
        for step in recipe.steps:
            outcome, failure = _step(recipe, step, folder, observers, force)
            outcomes.append(outcome)
            if failure is not None:
                break
        models = model_rows(recipe, folder, outcomes)
        result = RunResult(
            recipe=str(recipe.file),
            folder=str(folder),
            dry_run=False,
            seconds=time.monotonic() - started,
            steps=outcomes,
            models=models,
            failure=failure,
            made=_made(recipe, folder),
        )
        return _reported(result, folder)


def _require_run_folder(recipe: Recipe, folder: Path, force: bool) -> None:
    """A run is not strewn among somebody's files: its folder is new, empty, or that of a run."""
    ours = {"run.json", ".run.lock", *(step.id for step in recipe.steps)}
    there = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if there and not force and not there & ours:
        raise OutputError(
            f"{folder} is not empty and holds no run of this recipe",
            "name another folder with -o, or give --force to write into this one",
        )


def plan_run(recipe: Recipe, folder: Path, *, force: bool = False) -> RunResult:
    """What ``run`` would do: which steps are cached, which would run and why. Nothing is written.

    Raises:
        RecipeError: a file that a step names is not there.
    """
    _check_present(recipe)
    outcomes: list[StepOutcome] = []
    fresh: set[str] = set()
    for step in recipe.steps:
        waits = [need for need in step.needs if need in fresh]
        place = folder / step.id
        record = None if waits or force else cache.recorded(place, _key(recipe, step, folder))
        reason = ""
        if record is None:
            fresh.add(step.id)
            reason = _reason(place, waits, force)
        state = "cached" if record else "to run"
        outcomes.append(_outcome(step, state, 0.0, place, reason=reason))
    return RunResult(str(recipe.file), str(folder), True, 0.0, outcomes)


def written(recipe: Recipe, folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file that a run may write: what it is called, and where it goes."""
    yield "the run's record", folder / "run.json"
    yield "the report", folder / "report.html"
    for step in recipe.steps:
        yield "the record of a step", folder / step.id / cache.STEP_FILE
        for name, path in written_by(_request(recipe, step, folder)):
            yield name if name[:2] != "--" else f"the {name[2:]} of step {step.id}", path


def _check_present(recipe: Recipe) -> None:
    """Files that steps name, but for those that earlier steps make."""
    ids = {step.id for step in recipe.steps}
    for step in recipe.steps:
        try:
            if not step.inputs:
                check_model(recipe.source)
            for error in missing(step.settings):
                if error.culprit not in ids:
                    raise error
        except SslcliError as error:
            raise _located(recipe, step, error) from error


def _check_devices(recipe: Recipe) -> None:
    """A device that is not there is told before the steps ahead of its own have run."""
    for step in recipe.steps:
        try:
            choose_device(step.settings.run)
        except SslcliError as error:
            raise _located(recipe, step, error) from error


def _made(recipe: Recipe, folder: Path) -> Made:
    options = dict(setting.split("=", 1) for setting in recipe.overrides)
    return Made(run_command_line(recipe, folder), {**options, **recipe.machine}, recipe.seed, now())


def _reported(result: RunResult, folder: Path) -> RunResult:
    """Write the run's JSON and its page; the result then names the page."""
    if importlib.util.find_spec("sslcli.report.html") is not None:
        result = replace(result, report=str(folder / "report.html"))
    with atomic_output(folder / "run.json") as temporary:
        temporary.write_text(json.dumps(to_json(result), indent=2) + "\n")
    if result.report is not None:
        importlib.import_module("sslcli.report.html").write_report(folder, Path(result.report))
    return result


def make_folder(folder: Path) -> None:
    """Make a folder of outputs.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{folder} is a file", "name a folder with -o") from error
    except OSError as error:
        raise output_error(folder, error) from error


def _step(
    recipe: Recipe, step: Step, folder: Path, observers: Observers, force: bool
) -> tuple[StepOutcome, SslcliError | None]:
    place = folder / step.id
    event = StepEvent(step.id, step.uses, step.index, len(recipe.steps), "cached")
    key = _key(recipe, step, folder)
    record = None if force else cache.recorded(place, key)
    if record is not None:
        observers.step(event)
        return _outcome(step, "cached", record["seconds"], place, result=record["result"]), None
    observers.step(replace(event, state="running"))
    _prepare(place, key)
    began = time.monotonic()
    try:
        told = observers.training if step.uses in ("train", "regularize") else ()
        request = _request(recipe, step, folder)
        result = jobs.JOBS[step.uses](request, told)
        failure = getattr(result, "failure", None)
    except SslcliError as error:
        raise _located(recipe, step, error) from error
    seconds = time.monotonic() - began
    plain = to_json(result)
    line = command_line(request)
    cache.write_record(place, _record(step, key, line, seconds, place, plain, failure))
    (place / _STARTED).unlink(missing_ok=True)
    observers.step(replace(event, state="failed" if failure else "done", seconds=seconds))
    state = "failed" if failure else "run"
    return _outcome(step, state, seconds, place, result=plain), failure


def _prepare(place: Path, key: str) -> None:
    """An empty folder for the step, unless the same step was stopped there and can go on."""
    stopped = place / _STARTED
    if place.is_dir() and not (stopped.is_file() and stopped.read_text() == key):
        try:
            shutil.rmtree(place)
        except OSError as error:
            raise output_error(place, error) from error
    make_folder(place)
    for name in (_STARTED, cache.STEP_FILE):
        remove_leftovers(place / name)
    with atomic_output(stopped) as temporary:
        temporary.write_text(key)


def _record(
    step: Step,
    key: str,
    line: str,
    seconds: float,
    place: Path,
    result: dict[str, Any],
    failure: SslcliError | None,
) -> dict[str, Any]:
    name = _OUTPUTS.get(STEPS[step.uses].product)
    made = [name] if name and (place / name).is_file() else []  # a missed target makes none
    return {
        "key": key,
        "id": step.id,
        "uses": step.uses,
        "needs": list(step.inputs),
        "given": step.given,
        "command": line,
        "seconds": seconds,
        "outputs": {item: cache.file_hash(place / item) for item in made},
        "failure": None if failure is None else str(failure),
        "result": result,
    }


def _key(recipe: Recipe, step: Step, folder: Path) -> str:
    """The key of a step whose needs have run; what they made counts, not how."""
    inputs = {}
    for position, need in enumerate(step.needs):
        output = _output(recipe.step(need), folder)
        if output is not None and output.is_file():
            inputs[f"{position}:{need}"] = cache.file_hash(output)
    try:
        return cache.step_key(recipe, step, inputs)
    except InputError as error:
        raise _located(recipe, step, error) from error


def _output(step: Step, folder: Path) -> Path | None:
    name = _OUTPUTS.get(STEPS[step.uses].product)
    return folder / step.id / name if name else None


def _request(recipe: Recipe, step: Step, folder: Path) -> Request:
    outputs = {need: _output(recipe.step(need), folder) for need in step.needs}
    made = [str(path) for need in step.inputs if (path := outputs[need]) is not None]
    own = _output(step, folder)
    return Request(
        command=step.uses,
        source=made[0] if made else recipe.source,
        output=own,
        settings=_resolved(step, outputs, from_start=not made),
        others=tuple(made[1:]),
    )


def _resolved(step: Step, outputs: Mapping[str, Path | None], from_start: bool) -> Settings:
    """The step's settings with ids of steps replaced by their files.

    What the recipe says of its model goes for the start model, and for a teacher that no step has made.
    """
    chosen = step.settings
    teacher = getattr(chosen.step, "teacher", None)
    from_start = from_start or (teacher is not None and teacher not in outputs)
    model = chosen.model if from_start else _of_made(chosen.model)
    groups = {"step": chosen.step, "data": chosen.data}
    for group, options in groups.items():
        changes = {
            name: str(outputs[value])
            for name in REFERENCES
            if name in type(options).model_fields and (value := getattr(options, name)) in outputs
        }
        groups[group] = options.model_copy(update=changes)
    return replace(chosen, model=model, **groups)


def _of_made(model: ModelOptions) -> ModelOptions:
    """Files of our own say what they are; only code must be named again, since it is not run unasked."""
    libraries = ("torchvision:", "timm:")
    is_code = model.arch is not None and ":" in model.arch and not model.arch.startswith(libraries)
    return model if is_code else ModelOptions.model_validate({})


def _outcome(
    step: Step,
    state: str,
    seconds: float,
    place: Path,
    *,
    reason: str = "",
    result: dict[str, Any] | None = None,
) -> StepOutcome:
    name = _OUTPUTS.get(STEPS[step.uses].product)
    outputs = [str(place / name)] if name and state != "failed" else []
    return StepOutcome(step.id, step.uses, list(step.inputs), state, seconds, outputs, reason, result or {})


def _reason(place: Path, waits: list[str], force: bool) -> str:
    if force:
        return "forced"
    if waits:
        return f"needs {waits[0]}"
    if (place / _STARTED).is_file():
        return "was stopped"
    record = cache.read_record(place)
    if record is None:
        return "new"
    return "has failed" if record.get("failure") else "has changed"


def _located(recipe: Recipe, step: Step, error: SslcliError) -> SslcliError:
    """The error with the recipe's line, where it is about something that the recipe says."""
    if isinstance(error, RecipeError) or not isinstance(error, (UsageError, InputError)):
        return error
    for path in (("steps", step.index), ("model",), ("data",), ()):
        for word in _words(recipe, path, error):
            place = recipe.document.find(path, word)
            if place is not None:
                return RecipeError(f"{place}: {error.what} in step '{step.id}'", error.hint)
    if isinstance(error, UsageError):
        return RecipeError(f"{recipe.place(step)}: {error.what} in step '{step.id}'", error.hint)
    return error


def _words(recipe: Recipe, path: tuple[str | int, ...], error: SslcliError) -> list[str]:
    """What an error may be about: its culprit, what it quotes, and the recipe's own texts that it holds."""
    if error.culprit is not None:
        return [error.culprit]
    quoted = re.findall(r"'([^']+)'", error.what)
    if not path:
        return quoted
    texts = [text for text in recipe.document.texts(path) if len(text) > 3 and text in error.what]
    return [*quoted, *sorted(texts, key=len, reverse=True)]
