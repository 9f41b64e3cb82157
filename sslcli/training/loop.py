"""Fitting a model: the loop around the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sslcli.data.source import DataSource
from sslcli.graph.groups import GroupSet
from sslcli.options.training import TrainOptions
from sslcli.sparsity.penalty import WeightedSet
from sslcli.sparsity.zeros import count_zeros
from sslcli.training.control import Controller
from sslcli.training.evaluate import device_of, mode, to_device
from sslcli.training.failure import SpoiledError
from sslcli.training.keeper import Keeper, options_identity
from sslcli.training.progress import Observer, Progress
from sslcli.training.recalibrate import recalibrate
from sslcli.training.run import Run, Watch
from sslcli.training.settings import torch_settings_kept
from sslcli.training.signals import requests
from sslcli.training.state import digest
from sslcli.training.step import amp_dtype
from sslcli.training.task import Task, check_teacher, classification
from sslcli.training.world import ALONE, World

_RECALIBRATION_BATCHES = 50


@dataclass(frozen=True)
class FitResult:
    """How a run went.

    Args:
        metrics: on the validation split, of the weights that were kept; empty without such a split.
        kept_epoch: the epoch (from 1) whose weights were kept.
        epochs: epochs done.
        steps: optimiser steps done.
        seconds: spent in training, over resumes.
        zero_groups: per structure, zero groups and all groups.
        left: what would be left if pruned now, as fractions.
        strengths: by structure, at the end of the penalised phase.
        history: the record of every epoch, as JSON values.
        resumed_step: the step from which this process continued, 0 where it began.
        spoiled: where a run under a controller collapsed or diverged: the error; the weights are those of an
            epoch before.
    """

    metrics: dict[str, float]
    kept_epoch: int
    epochs: int
    steps: int
    seconds: float
    zero_groups: dict[str, tuple[int, int]]
    left: dict[str, float]
    strengths: dict[str, float]
    history: tuple[dict[str, Any], ...]
    resumed_step: int = 0
    spoiled: SpoiledError | None = None


def fit(
    model: nn.Module,
    task: Task | None,
    data: DataSource,
    options: TrainOptions,
    *,
    batch_size: int = 64,
    seed: int = 0,
    penalties: Sequence[WeightedSet] = (),
    held: Sequence[GroupSet] = (),
    watch: Watch | None = None,
    observers: Sequence[Observer] = (),
    state_path: Path | None = None,
    identity: Mapping[str, str] | None = None,
    teacher: nn.Module | None = None,
    controller: Controller | None = None,
    world: World = ALONE,
) -> FitResult:
    """Train ``model`` in place, on the device it is on.

    With a state path the run can be killed at any moment and continued by the same call, to the same bits
    (on the CPU with the same number of threads). Every random choice is a function of (seed, epoch, step).

    Args:
        model: what is trained; it keeps the modes of its modules.
        task: what is learned; None: classification with ``options.label_smoothing``.
        data: with a train split, and a validation split by which epochs are judged.
        options: epochs, optimiser, schedules, solver and the rest.
        batch_size: samples per step over all processes.
        seed: of every random choice.
        penalties: weighted sets of groups, acting in the penalised phase.
        held: sets whose zero groups are held at zero besides those of ``penalties``, where a phase freezes.
        watch: says what would be left if the model were pruned now, as fractions.
        observers: told of progress.
        state_path: file that the state is kept in.
        identity: what else a continuation must share (names of files, versions), by name.
        teacher: model whose outputs are distilled; on the same device.
        controller: moves the strengths.
        world: processes that train together.

    Raises:
        TargetError: the network collapsed or, by a loss that is not finite, diverged, and no controller led
            it there from a sound epoch.
        Interrupted: a signal asked to stop; the state is kept.
        UsageError: the state is of another run, or the task says nothing of teachers and there is one.
    """
    check_teacher(task, teacher)
    task = task or classification(options.label_smoothing)
    whole_identity = {
        **options_identity(options),
        "batch_size": str(batch_size),
        "seed": str(seed),
        "data": str(data.describe()),
        "penalties": _penalty_identity(penalties),
        "model": digest(model),
        "teacher model": digest(teacher),
        **(identity or {}),
    }
    if options.amp == "auto":
        whole_identity["precision"] = str(amp_dtype(options.amp, device_of(model)))
    keeper = Keeper(state_path, options, whole_identity)
    run = Run(
        model,
        task,
        data,
        options,
        batch_size=batch_size,
        seed=seed,
        penalties=penalties,
        held=held,
        watch=watch,
        observers=observers,
        teacher=teacher,
        controller=controller,
        world=world,
    )
    with (
        torch_settings_kept(run.device, options.deterministic),
        requests() as asked,
        mode(model, training=True),
        mode(teacher or nn.Identity(), training=False),
    ):
        run.start(world.share(keeper.find() if world.writes else None))
        resumed_step = run.step
        spoiled: SpoiledError | None = None
        try:
            while run.step < run.course.steps:
                run.advance()
                keeper.after_step(run, asked)
            run.end()
        except SpoiledError as error:
            if not run.falls_back(error):
                raise
            spoiled = error
        result = _finish(run, resumed_step, spoiled)
        keeper.after_course(run, asked)
        _tell_end(run, result)
    return result


def _finish(run: Run, resumed_step: int, spoiled: SpoiledError | None) -> FitResult:
    last = run.course.place(run.step - 1)
    if run.best is not None:
        run.model.load_state_dict(run.best.model)
    if run.options.recalibrate:
        _recalibrate(run)
    metrics = run.best.metrics if run.best is not None else run.history[-1]["metrics"]
    evaluation = run.evaluate() if run.options.recalibrate else None
    penalised = [record["strengths"] for record in run.history if record["strengths"]]
    return FitResult(
        metrics=evaluation.metrics if evaluation is not None else metrics,
        kept_epoch=run.best.epoch if run.best is not None else last.epoch + 1,
        epochs=last.epoch + 1,
        steps=run.step,
        seconds=run.report.seconds,
        zero_groups=count_zeros(run.parameters, run.watched),
        left=dict(run.watch(run.parameters)) if run.watch is not None else {},
        strengths=penalised[-1] if penalised else {},
        history=tuple(run.history),
        resumed_step=resumed_step,
        spoiled=spoiled,
    )


def _tell_end(run: Run, result: FitResult) -> None:
    run.report.tell(
        Progress(
            "end",
            run.course.place(run.step - 1).phase.name,
            result.epochs,
            result.steps,
            metrics=result.metrics,
            zero_groups=result.zero_groups,
            left=result.left,
        )
    )


def _recalibrate(run: Run) -> None:
    """From training batches as the run would see them in one more epoch, in steps of the whole batch."""
    torch.manual_seed(run.seed)
    count = min(_RECALIBRATION_BATCHES, run.course.steps_per_epoch)
    batches = (to_device(run.batch(run.course.epochs, number)[0], run.device) for number in range(count))
    recalibrate(run.model, batches, run.task)


def _penalty_identity(penalties: Sequence[WeightedSet]) -> str:
    return ", ".join(
        f"{weighted.group_set.structure} {weighted.strength:g} on {weighted.group_set.label}"
        f"{'' if weighted.size_weights else ' unweighted'}"
        for weighted in penalties
    )
