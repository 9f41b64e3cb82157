"""``train`` and ``regularize``: load, train a copy, save, measure."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslcli.errors import (
    InputError,
    ModelError,
    OutputError,
    PlanError,
    SslcliError,
    TargetError,
    UsageError,
)
from sslcli.files import lock_output
from sslcli.options.common import ModelOptions
from sslcli.options.contradictions import check_training
from sslcli.pipeline import inputs
from sslcli.pipeline.outputs import check_output, forget_nearest, metrics_path, nearest_path, state_path
from sslcli.pipeline.request import Request
from sslcli.pipeline.results import TrainingResult
from sslcli.pipeline.shape import shape_of_model
from sslcli.pipeline.tasks import load_task, recorded_task_told
from sslcli.reference import describe

if TYPE_CHECKING:
    from torch import nn

    from sslcli.checkpoint import Checkpoint, Record
    from sslcli.data import DataSource
    from sslcli.targeting import TrainResult
    from sslcli.training.task import Task
    from sslcli.training.world import World

Observers = Sequence[Callable[[Any], None]]


def train(request: Request, observers: Observers = ()) -> TrainingResult:
    """Train or fine-tune a model; zero groups that its record names stay zero."""
    from sslcli import targeting

    return _run(request, observers, targeting.train)


def regularize(request: Request, observers: Observers = ()) -> TrainingResult:
    """Fine-tune a model until whole groups are exactly zero."""
    from sslcli import targeting

    return _run(request, observers, targeting.regularize)


def _run(request: Request, observers: Observers, method: Callable[..., TrainResult]) -> TrainingResult:
    from sslcli import targeting
    from sslcli.checkpoint.save import require_format
    from sslcli.training.world import joined

    chosen = request.settings
    check_training(chosen.step)
    output = check_output(request)
    require_format(output)
    _require_other_course(getattr(chosen.step, "replay", None), output)
    device = inputs.choose_device(chosen.run)
    with joined(device.type) as world, _alone(output, world), inputs.threads(chosen.run.threads):
        if request.force and world.writes:
            state_path(output).unlink(missing_ok=True)
        loaded = _model(request)
        if world.writes:
            inputs.warn_of(loaded, request.source, chosen.model)
        source = inputs.load_data(chosen.data, loaded.record, chosen.run.seed, inputs.input_shape_of(loaded))
        task = load_task(chosen.step.task)
        _require_fitting(request, loaded, source, task)
        teacher = _teacher(request)
        if task is None:
            _require_same_classes(request, loaded, teacher)
        if request.command == "regularize":
            targeting.check_structures(loaded.model, loaded.example, chosen.step)
        with recorded_task_told(loaded.record):
            before = _measured(loaded.model, source, "validation", task)
        if world.writes and not request.source.startswith("arch:"):
            inputs.warn_of_chance(before, source, request.source)
        failure = None
        try:
            trained = method(
                loaded.model,
                loaded.example,
                source,
                options=chosen.step,
                task=task,
                teacher=teacher,
                zeros=loaded.record.zero_groups,
                batch_size=chosen.data.batch_size,
                seed=chosen.run.seed,
                device=device,
                observers=_all_observers(observers, output, chosen.step.tensorboard, world),
                state_path=state_path(output),
                identity={"threads": str(chosen.run.threads)},
                world=world,
            )
        except targeting.TargetMissedError as error:
            trained = error.nearest
            told = f"the nearest model is {nearest_path(output)}"
            failure = TargetError(error.what, f"{told}; {error.remedy}" if error.remedy else told)
        except TargetError:
            if world.writes:  # continued, it would diverge again; left, it would bar a lower strength
                state_path(output).unlink(missing_ok=True)
            raise
        return _finished(request, loaded, source, trained, before, task, world, failure)


def _require_fitting(request: Request, loaded: Checkpoint, source: DataSource, task: Task | None) -> None:
    """Refuse what would only fail after the last step, when the trained model is traced to be written."""
    from sslcli.graph.trace import trace
    from sslcli.training.task import call, check_teacher

    check_teacher(task, request.settings.step.teacher)
    stated = request.settings.model.input_shape
    as_they_come = task is None or task.forward is call
    if stated is not None and as_they_come and source.input_shape not in ((), stated):
        raise UsageError(
            f"--input-shape {_joined(stated)} is not the shape of the samples of {source.name}, "
            f"{_joined(source.input_shape)}",
            "leave it out, or name other data",
        )
    if request.command == "train":  # regularize traces first of all
        trace(loaded.model, loaded.example)


def _require_other_course(replay: str | None, output: Path) -> None:
    """Refuse to replay a course that this very run would write over."""
    if replay is not None and Path(replay).resolve() == metrics_path(output).resolve():
        raise UsageError(
            f"the course to replay, {replay}, is what this run writes anew", "name another output with -o"
        )


def _joined(shape: tuple[int, ...]) -> str:
    return ",".join(str(size) for size in shape)


def _finished(
    request: Request,
    loaded: Checkpoint,
    source: DataSource,
    trained: TrainResult,
    before: dict[str, float],
    task: Task | None,
    world: World,
    failure: TargetError | None,
) -> TrainingResult:
    """Measure and save what came of it: the model, or the nearest where a target is missed, never as OUT."""
    from sslcli import checkpoint

    output = _path(request)
    product = output if failure is None else nearest_path(output)
    metrics = _metrics(trained, source, task)
    record = _record(request, loaded, source, trained, metrics)
    if world.writes:
        if failure is None:
            _require_still_free(request)
        checkpoint.save(trained, product, record=record)
        if failure is None:
            forget_nearest(request, output)
        state_path(output).unlink(missing_ok=True)
    fit = trained.fit
    return TrainingResult(
        command=request.command,
        source=request.source,
        output=str(product),
        data=source.describe(),
        epochs=fit.epochs,
        steps=fit.steps,
        seconds=fit.seconds,
        before=before,
        metrics=metrics,
        zero_groups={name: list(counts) for name, counts in fit.zero_groups.items()},
        strengths=dict(fit.strengths),
        left=dict(fit.left),
        reached=dict(trained.reached),
        history=list(fit.history),
        notes=list(loaded.notes),
        course=str(metrics_path(output)),
        shape=shape_of_model(trained.model, trained.example),
        target=_asked(request.settings.step, trained.reached),
        failure=failure,
    )


def _asked(options: Any, reached: Mapping[str, float]) -> dict[str, float]:
    """The target by the names of what was reached; packed MACs are what a target for MACs may mean."""
    asked = {name: options.target.get(name.removesuffix("_packed")) for name in reached if name != "drop"}
    if reached:
        asked["drop"] = options.max_drop
    return {name: limit for name, limit in asked.items() if limit is not None}


def _require_still_free(request: Request) -> None:
    """Training takes hours, in which somebody else may have written the output; the state is kept then."""
    try:
        check_output(request)
    except OutputError as error:
        hint = "move it away and run the same command again, which goes on from the state that was kept"
        raise OutputError(error.what, hint) from error


def _metrics(trained: TrainResult, source: DataSource, task: Task | None) -> dict[str, dict[str, float]]:
    """On the validation split, by which choices were made, and once on the test split."""
    metrics = {"validation": dict(trained.metrics)} if trained.metrics else {}
    test = _measured(trained.model, source, "test", task)
    return {**metrics, "test": test} if test else metrics


def _measured(model: Any, source: DataSource, split: str, task: Task | None) -> dict[str, float]:
    from sslcli.training.evaluate import evaluate

    samples = getattr(source, split)
    return {} if samples is None or len(samples) == 0 else evaluate(model, task, samples)


def _record(
    request: Request,
    loaded: Checkpoint,
    source: DataSource,
    trained: TrainResult,
    metrics: dict[str, dict[str, float]],
) -> Record:
    record = inputs.with_data(loaded.record, source)
    flat = {f"{split} {name}": value for split, values in metrics.items() for name, value in values.items()}
    zeros = {structure: dict(counts) for structure, counts in trained.zero_groups.items()}
    return record.followed_by(
        request.command,
        inputs.stated(request),
        inputs.parents(request),
        zero_groups=zeros or record.zero_groups,
        metrics=flat,
    )


def _model(request: Request) -> Checkpoint:
    """The model; beside a teacher, --arch may be meant for that alone, and the file says what it is."""
    chosen = request.settings
    try:
        return inputs.load_model(request.source, chosen.model, chosen.run.seed, chosen.data)
    except (ModelError, PlanError):
        if chosen.step.teacher is None or chosen.model.arch is None:
            raise
        plain = chosen.model.model_copy(update={"arch": None, "arch_arg": {}})
        with contextlib.suppress(SslcliError):
            loaded = inputs.load_model(request.source, plain, chosen.run.seed, chosen.data)
            logging.getLogger(__name__).warning(
                "%s is read as it says itself; --arch %s is taken for the teacher alone",
                request.source,
                chosen.model.arch,
            )
            return loaded
        raise


def _teacher(request: Request) -> nn.Module | None:
    """The teacher as its file says it is; what the options say of the model is for weights alone."""
    chosen = request.settings
    name = chosen.step.teacher
    if name is None:
        return None
    plain = ModelOptions.model_validate({"trust_pickle": chosen.model.trust_pickle})
    try:
        return inputs.load_model(name, plain, chosen.run.seed, chosen.data).model
    except ModelError:
        if chosen.model.arch is None:
            raise
        return inputs.load_model(name, chosen.model, chosen.run.seed, chosen.data).model


def _require_same_classes(request: Request, loaded: Checkpoint, teacher: nn.Module | None) -> None:
    """Refuse a teacher of other outputs before training, in words that speak of the teacher."""
    import torch

    from sslcli.training.task import heads

    if teacher is None or not loaded.example:
        return
    name = request.settings.step.teacher
    with torch.no_grad():
        own = heads(loaded.model(*loaded.example))[0]
        try:
            taught = heads(teacher.eval()(*loaded.example))[0]
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"the teacher {name} does not run on what the model takes ({describe(error)})",
                "name a model of the same inputs",
            ) from error
    if own.shape != taught.shape:
        what = f"the teacher {name} gives outputs {tuple(taught.shape)}, the model {tuple(own.shape)}"
        raise InputError(what, "name a teacher of the same classes")


def _all_observers(
    observers: Observers, output: Path, tensorboard: str | None, world: World
) -> list[Callable[[Any], None]]:
    if not world.writes:
        return []
    from sslcli.training.progress import MetricsFile

    found: list[Callable[[Any], None]] = [*observers, MetricsFile(metrics_path(output))]
    if tensorboard is not None:
        from sslcli.pipeline.tensorboard import TensorBoardLog

        found.append(TensorBoardLog(Path(tensorboard)))
    return found


@contextlib.contextmanager
def _alone(output: Path, world: World) -> Iterator[None]:
    """The output's lock, held by the process that writes."""
    companions = (state_path(output), metrics_path(output), nearest_path(output))
    with lock_output(output, companions) if world.writes else contextlib.nullcontext():
        yield


def _path(request: Request) -> Path:
    assert request.output is not None  # check_output has seen to it
    return request.output
