"""The course of a run: its phases, and where in them a step stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sslcli.options.training import RegularizeOptions, TrainOptions


@dataclass(frozen=True)
class Phase:
    """A stretch of training under one rule.

    Args:
        name: train, sparse or finetune.
        steps: optimiser steps.
        lr: learning rate at its highest.
        penalised: whether the penalty acts.
        frozen: whether groups that are zero at its start are held at zero.
    """

    name: str
    steps: int
    lr: float
    penalised: bool
    frozen: bool


@dataclass(frozen=True)
class Place:
    """Where one step stands.

    Args:
        phase: its phase.
        first: whether it is the phase's first step.
        epoch: number of the pass over the data, from 0, over the whole run.
        batch: number of the batch in that pass, from 0.
        phase_epoch: position in the phase in epochs, with fraction.
        phase_epochs: length of the phase in epochs, with fraction.
        ends_epoch: whether a pass (or the phase) ends with it.
    """

    phase: Phase
    first: bool
    epoch: int
    batch: int
    phase_epoch: float
    phase_epochs: float
    ends_epoch: bool


@dataclass(frozen=True)
class Course:
    """All phases of a run, on a data set of ``steps_per_epoch`` batches."""

    phases: tuple[Phase, ...]
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return sum(phase.steps for phase in self.phases)

    @property
    def epochs(self) -> int:
        """Passes over the data of the whole run, those cut short included."""
        return sum(self._passes(phase) for phase in self.phases)

    def place(self, step: int) -> Place:
        """Where step number ``step`` (from 0, below ``steps``) stands."""
        epoch = 0
        for phase in self.phases:
            if step < phase.steps:
                break
            step -= phase.steps
            epoch += self._passes(phase)
        per_epoch = self.steps_per_epoch
        return Place(
            phase=phase,
            first=step == 0,
            epoch=epoch + step // per_epoch,
            batch=step % per_epoch,
            phase_epoch=step / per_epoch,
            phase_epochs=phase.steps / per_epoch,
            ends_epoch=(step + 1) % per_epoch == 0 or step + 1 == phase.steps,
        )

    def _passes(self, phase: Phase) -> int:
        return -(-phase.steps // self.steps_per_epoch)


def plan_course(options: TrainOptions, samples: int, batch_size: int) -> Course:
    """The phases that ``options`` ask for on a data set of ``samples``.

    A last batch that is not full is left out, since another epoch's order brings those samples in; a data
    set smaller than a batch is one batch.
    """
    per_epoch = max(1, samples // batch_size)
    steps = options.epochs * per_epoch
    if options.max_steps is not None:
        steps = min(steps, options.max_steps)
    return Course(tuple(_phases(options, steps, per_epoch)), per_epoch)


def _phases(options: TrainOptions, steps: int, per_epoch: int) -> Sequence[Phase]:
    held = bool(options.freeze_zeros)
    if not isinstance(options, RegularizeOptions):
        return [Phase("train", steps, options.lr, penalised=False, frozen=held)]
    phases = [Phase("sparse", steps, options.lr, penalised=True, frozen=held)]
    length = options.finetune_epochs * per_epoch
    if options.max_steps is not None:
        length = min(length, options.max_steps)
    if length:
        lr = options.finetune_lr or options.lr
        phases.append(Phase("finetune", length, lr, penalised=False, frozen=True))
    return phases
