"""One step of training: loss, gradient, optimiser, penalty."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sslcli.errors import DeviceError
from sslcli.options.training import RegularizeOptions, TrainOptions
from sslcli.sparsity.penalty import WeightedSet, stages_value
from sslcli.sparsity.solvers import Prox, Subgradient
from sslcli.sparsity.zeros import Freeze
from sslcli.training.layout import ChannelsLast
from sslcli.training.optimizer import build_optimizer, prox_step_size, set_lr
from sslcli.training.task import Task, distillation_of, learned_loss

_BF16 = ("avx512_bf16", "amx_bf16")  # as torch calls what a CPU may be capable of

Solver = Prox | Subgradient


class Stepper:
    """Takes the steps of a run on one model.

    Args:
        model: trained in place.
        task: loss and distillation.
        options: optimiser, solver, mixed precision, clipping.
        device: where the model is.
        teacher: its outputs are distilled, in the share ``options.teacher_weight``.
        replicate: wraps what is called in what averages gradients over processes.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        options: TrainOptions,
        device: torch.device,
        teacher: nn.Module | None = None,
        replicate: Callable[[nn.Module], nn.Module] = lambda called: called,
    ) -> None:
        self.model, self.task, self.options, self.device = model, task, options, device
        self.teacher = _laid_out(teacher, options) if teacher is not None else None
        self.replica = replicate(_laid_out(model, options))
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.optimizer = build_optimizer(model, options)
        self.precision = amp_dtype(options.amp, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        self.solver: Solver | None = None
        self.freeze: Freeze | None = None

    def reset_optimizer(self) -> None:
        """Forget momentum."""
        self.optimizer = build_optimizer(self.model, self.options)

    def penalise(self, penalties: Sequence[WeightedSet]) -> None:
        """Use these weighted sets from the next step on; those of strength 0 cost nothing."""
        wanted = [weighted for weighted in penalties if weighted.strength > 0]
        if not wanted:
            self.solver = None
        elif isinstance(self.options, RegularizeOptions) and self.options.solver == "subgradient":
            self.solver = Subgradient(self.parameters, wanted)
        else:
            self.solver = Prox(self.parameters, wanted)

    def hold(self, masks: dict[str, Tensor]) -> None:
        """Hold the masked elements at zero from the next step on."""
        self.freeze = Freeze(self.parameters, masks) if masks else None
        if self.freeze is not None:
            self.freeze.weights()
            self.freeze.momentum(self.optimizer)

    def penalty(self) -> float:
        """R(W) at the strengths in force."""
        return float(stages_value(self.solver.stages)) if self.solver is not None else 0.0

    def step(
        self,
        inputs: Any,
        targets: Any,
        lr: float,
        factor: float = 1.0,
        look: Callable[[Mapping[str, Tensor]], None] | None = None,
    ) -> tuple[Tensor, Any]:
        """Take one step.

        Args:
            inputs: of the batch, on the device.
            targets: of the batch, on the device.
            lr: learning rate.
            factor: of all strengths, from their schedule.
            look: is shown the parameters with the gradients of the loss alone, before they are used.

        Returns:
            The loss without the penalty, detached, and the outputs.
        """
        set_lr(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            outputs = self.task.forward(self.replica, inputs)
            loss = self._loss(outputs, inputs, targets)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._update(lr, factor, look)
        return loss.detach(), outputs

    def _update(self, lr: float, factor: float, look: Callable[[Mapping[str, Tensor]], None] | None) -> None:
        self.scaler.unscale_(self.optimizer)
        if look is not None:
            look(self.parameters)
        if self.options.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        if isinstance(self.solver, Subgradient) and factor > 0:
            self.solver.add(factor)
        if self.freeze is not None:
            self.freeze.gradients()
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        skipped = self.scaler.is_enabled() and self.scaler.get_scale() < scale
        if not skipped:
            self._shrink(lr, factor)
        if self.freeze is not None:
            self.freeze.weights()

    def _shrink(self, lr: float, factor: float) -> None:
        if isinstance(self.solver, Prox):
            self.solver.step(prox_step_size(self.options, lr) * factor)
        elif isinstance(self.solver, Subgradient) and isinstance(self.options, RegularizeOptions):
            self.solver.threshold(self.options.element_threshold)

    def _loss(self, outputs: Any, inputs: Any, targets: Any) -> Tensor:
        loss = learned_loss(self.task, outputs, targets)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            taught = self.task.forward(self.teacher, inputs)
        share = self.options.teacher_weight
        distance = distillation_of(self.task, outputs, taught, self.options.temperature)
        return (1 - share) * loss + share * distance

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.precision is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision)


def _laid_out(model: nn.Module, options: TrainOptions) -> nn.Module:
    """The model in the layout that the options ask for."""
    return ChannelsLast(model) if options.channels_last else model


def amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """The reduced precision that ``--amp`` means on a device; None for full precision.

    On a CPU ``auto`` is bf16 where its instructions multiply such numbers (AVX-512 BF16, AMX).

    Raises:
        DeviceError: fp16 was asked for on the CPU, where gradients cannot be scaled.
    """
    if amp == "auto" and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if amp == "auto" and device.type == "cpu" and _multiplies_bf16():
        return torch.bfloat16
    if amp == "bf16":
        return torch.bfloat16
    if amp == "fp16":
        if device.type != "cuda":
            raise DeviceError("--amp fp16 needs a CUDA device", "use --amp auto: what the device has")
        return torch.float16
    return None


def _multiplies_bf16() -> bool:
    """Whether the CPU has instructions for products of bf16; no where this torch does not tell."""
    tell: Callable[[], Mapping[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    told = tell()
    return any(told.get(name) for name in _BF16)
