"""One run of training: its state in memory and what happens at each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sslcli.data.randomness import epoch_order, key
from sslcli.data.source import DataSource
from sslcli.data.stream import stream
from sslcli.graph.groups import GroupSet
from sslcli.options.training import RegularizeOptions, TrainOptions
from sslcli.sparsity.penalty import WeightedSet
from sslcli.sparsity.schedule import ramp, staged
from sslcli.sparsity.zeros import count_zeros, zero_groups, zero_masks
from sslcli.training.control import Controller, Signs
from sslcli.training.course import Place, plan_course
from sslcli.training.evaluate import Evaluation, data_fit, device_of, like, measure, to_device
from sslcli.training.failure import CollapsedError, DivergedError, SpoiledError, check_finite, collapsed
from sslcli.training.optimizer import prox_step_size
from sslcli.training.progress import Observer, Progress
from sslcli.training.report import Reporter, strengths_by_name
from sslcli.training.schedule import lr_factor
from sslcli.training.state import RunState
from sslcli.training.step import Stepper
from sslcli.training.strengths import Recorder, choice_record, described, given
from sslcli.training.task import Task, is_constant
from sslcli.training.world import World

Watch = Callable[[Mapping[str, Tensor]], Mapping[str, float]]

# Steps between looks at the loss, where looking makes the device or other processes wait, and at the outputs.
_LOOK_WAITING = 25
_LOOK_OUTPUTS = 50


@dataclass
class Best:
    """The best epoch so far; ``lacking`` where it missed the target and nothing further could go."""

    metric: float
    epoch: int
    metrics: dict[str, float]
    model: dict[str, Any]
    lacking: bool = False


@dataclass
class Sound:
    """The last epoch at whose end the output still depended on the input; epoch 0: before training."""

    epoch: int
    model: dict[str, Any]


class Run:
    """A run in progress; ``fit`` drives it.

    Args:
        model: trained in place.
        task: what is learned.
        data: with ``train`` and, if epochs are to be judged, ``validation``.
        options: how.
        batch_size: samples per step over all processes.
        seed: of every random choice.
        penalties: weighted sets of the penalised phase.
        held: sets whose zero groups are held at zero besides, where a phase freezes.
        watch: says what would be left if the model were pruned now.
        observers: told of progress.
        teacher: distilled from.
        controller: moves the strengths.
        world: processes that train together.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        data: DataSource,
        options: TrainOptions,
        *,
        batch_size: int,
        seed: int,
        penalties: Sequence[WeightedSet],
        held: Sequence[GroupSet],
        watch: Watch | None,
        observers: Sequence[Observer],
        teacher: nn.Module | None,
        controller: Controller | None,
        world: World,
    ) -> None:
        self.model, self.task, self.data, self.options = model, task, data, options
        self.batch_size, self.seed, self.world = batch_size, seed, world
        self.penalties, self.watch, self.controller = list(penalties), watch, controller
        self.watched = [*(weighted.group_set for weighted in penalties), *held]
        self.train_split = data.split("train")
        self.device = device_of(model)
        world.check_batch(min(batch_size, len(self.train_split)))
        self.course = plan_course(options, len(self.train_split), batch_size)
        self.stepper = Stepper(model, task, options, self.device, teacher, world.replicate)
        self.parameters: dict[str, Tensor] = dict(self.stepper.parameters)
        self.report = Reporter(observers if world.writes else (), self.course, batch_size)
        self.step = self._first = 0
        self.epoch_ended = False
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.frozen: list[Tensor] | None = None
        self.best: Best | None = None
        self.sound: Sound | None = None
        self.history: list[dict[str, Any]] = []
        self._coming: Iterator[tuple[Any, Any]] | None = None
        self._next = (0, 0)
        self._constant_before = False
        self._recorder = Recorder()

    def start(self, state: RunState | None) -> None:
        """Begin, or go on from ``state``."""
        if state is not None:
            self._restore(state)
        if self.controller is not None and self.sound is None:
            self.sound = Sound(0, self._weights())
        self._first = self.step
        self.report.start(self.step, state.seconds if state is not None else 0.0)
        place = self.course.place(min(self.step, self.course.steps - 1))
        self.report.tell(Progress("start", place.phase.name, place.epoch, self.step))

    def advance(self) -> None:
        """Take one step, and do what its place in the course asks for."""
        place = self.course.place(self.step)
        if place.first:
            self._enter(place)
        elif place.batch == 0 and place.phase.name == "finetune":
            self._make_up(place)
        self._control(place)
        lr = place.phase.lr * lr_factor(self.options, place.phase_epoch, place.phase_epochs)
        inputs, targets = self.batch(place.epoch, place.batch)
        torch.manual_seed(self._noise(place))
        with data_fit(first=self.step == self._first):
            loss, outputs = self.stepper.step(
                inputs, targets, lr, self._factor(place), self._controller_look(place)
            )
        self.step += 1
        self.epoch_ended = place.ends_epoch
        self.loss_sum += loss
        self._look(outputs, place)
        if place.ends_epoch:
            self._end_epoch(place, lr)
        elif self.report.due():
            self._tell_step(place, lr)

    def _controller_look(self, place: Place) -> Callable[[Mapping[str, Tensor]], None] | None:
        """The controller's look at the gradients of the coming step, where it takes one."""
        if self.controller is None or not place.phase.penalised:
            return None
        return None if (self.step + 1) % self.controller.look_every else self.controller.look

    def state(self, identity: Mapping[str, str]) -> RunState:
        """Everything that ``start`` needs to go on from here."""
        return RunState(
            identity=dict(identity),
            step=self.step,
            model=self.model.state_dict(),
            optimizer=self.stepper.optimizer.state_dict(),
            scaler=self.stepper.scaler.state_dict(),
            loss_sum=float(self.loss_sum),
            frozen=self.frozen,
            best=None if self.best is None else vars(self.best),
            sound=None if self.sound is None else vars(self.sound),
            history=self.history,
            controller=self.controller.state() if self.controller is not None else {},
            seconds=self.report.seconds,
        )

    def _restore(self, state: RunState) -> None:
        self.step = state.step
        self.model.load_state_dict(state.model)
        self.loss_sum.fill_(state.loss_sum)
        self.frozen = state.frozen
        self.best = None if state.best is None else Best(**state.best)
        self.sound = None if state.sound is None else Sound(**state.sound)
        self.history = state.history
        if self.controller is not None:
            self.controller.restore(state.controller)
            self.penalties = list(self.controller.penalties())
            self._recorder = Recorder(self.penalties if self.step else None)
        if 0 < self.step < self.course.steps:
            place = self.course.place(self.step)
            if not place.first:
                self._apply(place)
                self.stepper.optimizer.load_state_dict(state.optimizer)
                self.stepper.scaler.load_state_dict(state.scaler)

    def _enter(self, place: Place) -> None:
        """Begin a phase: choose what is frozen, with an optimiser that remembers nothing."""
        self.frozen = None
        if place.phase.frozen:
            self.frozen = zero_groups(self.parameters, self.watched)
            if self.controller is not None and place.phase.name == "finetune":
                self._choose(place, self.controller, self.frozen)
        self.stepper.reset_optimizer()
        self.best = None
        self._apply(place)

    def _choose(self, place: Place, controller: Controller, frozen: list[Tensor]) -> None:
        chosen = controller.choose(self.parameters, self.step)
        frozen[: len(chosen)] = list(chosen)
        self._tell_applied(place, choice_record(chosen))

    def _make_up(self, place: Place) -> None:
        """Hold further groups at zero where the target is missed by now; earlier epochs count no more.

        Where nothing further can go, they count until one meets it.
        """
        if self.controller is None or self.frozen is None:
            return
        if not self.controller.lacks(self.parameters, self.step):
            self._prefer_met()
            return
        before = zero_masks(self.parameters, self.watched, self.frozen)
        self._choose(place, self.controller, self.frozen)
        after = zero_masks(self.parameters, self.watched, self.frozen)
        if before.keys() != after.keys() or any(bool((before[n] != after[n]).any()) for n in after):
            self.best = None
        elif self.best is not None and self.best.epoch == place.epoch:
            self.best.lacking = True
        self._apply(place)

    def _prefer_met(self) -> None:
        """Take the epoch that has ended, which meets the target, for the best where that one did not."""
        if self.best is not None and self.best.lacking and self.sound is not None:
            metrics = self.history[-1]["metrics"]
            self.best = Best(metrics[self.task.metric_name], self.sound.epoch, metrics, self.sound.model)

    def end(self) -> None:
        """Settle which epoch is kept, after the last step."""
        lacking = self.best is not None and self.best.lacking
        if self.controller is not None and lacking and not self.controller.lacks(self.parameters, self.step):
            self._prefer_met()

    def _apply(self, place: Place) -> None:
        self.stepper.penalise(self.penalties if place.phase.penalised else ())
        masks = {} if self.frozen is None else zero_masks(self.parameters, self.watched, self.frozen)
        self.stepper.hold(masks)

    def _control(self, place: Place) -> None:
        if self.controller is None or not place.phase.penalised or self.step % self.controller.every:
            return
        lr = place.phase.lr * lr_factor(self.options, place.phase_epoch, place.phase_epochs)
        self.world.share_buffers(self.model)  # what a removed filter leaves behind depends on its norm's
        signs = Signs(
            step=self.step,
            position=place.phase_epoch / place.phase_epochs,
            step_size=prox_step_size(self.options, lr),
            parameters=self.parameters,
            metrics=self.history[-1]["metrics"] if self.history else {},
        )
        self.penalties = list(self.controller.adjust(signs))
        self.stepper.penalise(self.penalties)
        now = strengths_by_name(self.penalties)
        self.report.tell(Progress("control", place.phase.name, place.phase_epoch, self.step, strengths=now))
        changes = self._recorder.changes(self.penalties)
        if place.first:
            sets = described([weighted.group_set for weighted in self.penalties])
            changes["run"] = {
                "every": self.controller.every,
                "steps": place.phase.steps,
                "sets": sets,
                "given": given(self.options, self.batch_size, self.seed),
            }
        if changes:
            self._tell_applied(place, changes)

    def _tell_applied(self, place: Place, applied: dict[str, Any]) -> None:
        """What the controller did, for a replay."""
        self.report.tell(Progress("strengths", place.phase.name, place.epoch, self.step, applied=applied))

    def _factor(self, place: Place) -> float:
        """What the schedule makes of the strengths at a place."""
        options = self.options
        if not isinstance(options, RegularizeOptions):
            return 1.0
        if options.strength_schedule == "ramp":
            return ramp(place.phase_epoch, options.strength_warmup)
        if options.strength_schedule == "staged":
            return staged(place.phase_epoch, options.strength_milestones, options.strength_factors)
        return 1.0

    def batch(self, epoch: int, number: int) -> tuple[Any, Any]:
        """This process's share of one batch, on the device."""
        if self._coming is None or self._next != (epoch, number):
            order = epoch_order(len(self.train_split), self.seed, epoch)
            batches = torch.split(order, self.batch_size)[number : self.course.steps_per_epoch]
            mine = [indices[self.world.rank :: self.world.size] for indices in batches]
            self._coming = stream(self.train_split, mine, seed=self.seed, epoch=epoch)
        self._next = (epoch, number + 1)
        inputs, targets = to_device(next(self._coming), self.device)
        return like(inputs, self.model), targets

    def _noise(self, place: Place) -> int:
        """The seed of everything random inside the model at one step."""
        return key(self.seed, place.epoch, place.batch * self.world.size + self.world.rank) >> 1

    def _look(self, outputs: Any, place: Place) -> None:
        """Stop a run that cannot come to any good; all processes see the same and stop alike."""
        waits = self.device.type == "cuda" or self.world.size > 1
        if not waits or self.step % _LOOK_WAITING == 0:
            self._require_finite(float(self.world.sum(self.loss_sum.clone())), place)
        if self.step % _LOOK_OUTPUTS == 0:
            constant = bool(self.world.sum((~is_constant(outputs)).float()) == 0)
            if constant and self._constant_before:
                raise self._collapsed(place)
            self._constant_before = constant

    def _end_epoch(self, place: Place, lr: float) -> None:
        loss = float(self.world.sum(self.loss_sum)) / self.world.size / (place.batch + 1)
        self.loss_sum.zero_()
        self._require_finite(loss, place)
        evaluation = self.evaluate()
        if evaluation is not None and evaluation.constant:
            raise self._collapsed(place)
        metrics = evaluation.metrics if evaluation is not None else {}
        record = Progress(
            "epoch",
            place.phase.name,
            place.epoch + 1,
            self.step,
            loss=loss,
            penalty=self.stepper.penalty() * self._factor(place),
            metrics=metrics,
            zero_groups=count_zeros(self.parameters, self.watched),
            left=dict(self.watch(self.parameters)) if self.watch is not None else {},
            lr=lr,
            strengths=self.strengths_at(place),
        )
        self.history.append(self.report.tell(record).to_dict())
        self._remember(place, metrics)

    def strengths_at(self, place: Place) -> dict[str, float]:
        """The strengths in force at a place, by structure."""
        if not place.phase.penalised:
            return {}
        return strengths_by_name(self.penalties, self._factor(place))

    def evaluate(self) -> Evaluation | None:
        """The model on the validation split, where there is one."""
        if self.data.validation is None or len(self.data.validation) == 0:
            return None
        self.world.share_buffers(self.model)
        size = max(self.batch_size, 256)
        found = measure(self.model, self.task, self.data.validation, batch_size=size, world=self.world)
        self._require_finite(found.metrics["loss"], self.course.place(max(self.step, 1) - 1))
        return found

    def falls_back(self, error: SpoiledError) -> bool:
        """Keep the weights of a sound epoch where a controller led the run; whether there are any.

        After a collapse, which its pressure makes, those of the last, or from before training; after a
        divergence those of the best epoch of the fine-tuning that it happened in, or else of the last.
        """
        diverged = isinstance(error, DivergedError)
        if self.controller is None or self.sound is None or (diverged and self.sound.epoch == 0):
            return False
        place = self.course.place(max(self.step, 1) - 1)
        if not (diverged and place.phase.name == "finetune" and self.best is not None):
            self._keep_sound(self.sound)
        return True

    def _keep_sound(self, sound: Sound) -> None:
        self.model.load_state_dict(sound.model)
        evaluation = self.evaluate()
        metrics = evaluation.metrics if evaluation is not None else {}
        self.best = Best(metrics.get(self.task.metric_name, 0.0), sound.epoch, metrics, sound.model)

    def _require_finite(self, loss: float, place: Place) -> None:
        check_finite(loss, self.step, _rate(place, self.options), self.parameters, self._given())

    def _collapsed(self, place: Place) -> CollapsedError:
        return collapsed(self.step, _rate(place, self.options), self.parameters, self._given())

    def _given(self) -> Sequence[WeightedSet]:
        """The penalties whose strength the user gave."""
        return () if self.controller is not None else self.penalties

    def _weights(self) -> dict[str, Any]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def _remember(self, place: Place, metrics: dict[str, float]) -> None:
        if self.controller is not None:
            self.sound = Sound(place.epoch + 1, self._weights())
        if self.options.keep != "best" or not metrics:
            return
        metric = metrics[self.task.metric_name]
        if self.best is None or metric > self.best.metric:
            self.best = Best(metric, place.epoch + 1, metrics, self._weights())

    def _tell_step(self, place: Place, lr: float) -> None:
        self.report.tell(
            Progress(
                "step",
                place.phase.name,
                place.epoch + (place.batch + 1) / self.course.steps_per_epoch,
                self.step,
                loss=float(self.loss_sum) / (place.batch + 1),
                lr=lr,
                strengths=self.strengths_at(place),
            )
        )


def _rate(place: Place, options: TrainOptions) -> str:
    """The option that the learning rate of a place comes from, and its value."""
    own = isinstance(options, RegularizeOptions) and options.finetune_lr is not None
    name = "--finetune-lr" if own and place.phase.name == "finetune" else "--lr"
    return f"{name} ({place.phase.lr:g})"
