"""Measuring a model on a split."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sslcli.data.source import Split
from sslcli.data.stream import stream
from sslcli.errors import DataError, GraphError, InputError, TargetError
from sslcli.reference import describe
from sslcli.training.task import Task, classification, is_constant, loss_of, metric_of
from sslcli.training.world import ALONE, World


@dataclass(frozen=True)
class Evaluation:
    """Means over a split.

    Args:
        metrics: the task's metric by its name (accuracy as a fraction), and loss.
        samples: how many.
        constant: whether the output was the same for every sample of every batch.
    """

    metrics: dict[str, float]
    samples: int
    constant: bool


def evaluate(
    model: nn.Module, task: Task | None, split: Split, *, batch_size: int = 256, world: World = ALONE
) -> dict[str, float]:
    """The task's metric (``accuracy``, a fraction) and ``loss``, means over all samples of ``split``.

    The model is run in eval mode on the device it is on, and is left in the mode it was in.

    Args:
        model: the model.
        task: None: classification.
        split: the samples.
        batch_size: samples per forward pass, over all processes.
        world: processes that share the work.

    Raises:
        TargetError: the loss is not finite.
        InputError: the task's loss or metric is not what it should be, or the metric alone is not finite.
    """
    metrics = measure(model, task or classification(), split, batch_size=batch_size, world=world).metrics
    if not math.isfinite(metrics["loss"]):
        raise TargetError(
            f"the loss is {metrics['loss']} on {len(split)} samples: training diverged, or data are broken",
            "look for such values in the samples, or train with a lower --lr",
        )
    return metrics


def measure(
    model: nn.Module,
    task: Task,
    split: Split,
    *,
    batch_size: int = 256,
    world: World = ALONE,
    require_metric: bool = True,
) -> Evaluation:
    """``evaluate`` with what the training loop wants to know besides; a loss may be NaN.

    So may the metric, where ``require_metric`` is False.
    """
    if len(split) == 0:
        raise DataError("there are no samples to evaluate on", "check the data set's splits")
    device = device_of(model)
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, metric, batches whose output varies
    with mode(model, training=False), torch.no_grad():
        batches = torch.split(torch.arange(len(split)), batch_size)
        mine = [part for indices in batches if len(part := indices[world.rank :: world.size])]
        for number, batch in enumerate(stream(split, mine)):
            with data_fit(first=number == 0):
                sums += _batch_sums(model, task, to_device(batch, device), len(mine[number]))
    loss, metric, varied = world.sum(sums).tolist()
    if require_metric and math.isfinite(loss) and not math.isfinite(metric):
        raise InputError(
            f"the metric {task.metric_name} of the task {task.name} is {metric} over {len(split)} samples",
            "return a finite value for each sample from the task's metric",
        )
    metrics = {task.metric_name: metric / len(split), "loss": loss / len(split)}
    return Evaluation(metrics, len(split), constant=varied == 0 and len(split) > 1)


@contextlib.contextmanager
def data_fit(*, first: bool) -> Iterator[None]:
    """What torch says on the first batch becomes a DataError: the samples are not what the model takes."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if "deterministic implementation" in str(error):
            what = f"an operator has no deterministic form on this device ({describe(error)})"
            raise GraphError(what, "leave --deterministic out") from error
        if not first or "allocate memory" in str(error):
            raise
        raise DataError(
            f"the model does not run on the data ({describe(error)})",
            "check the shape of the samples and the number of classes",
        ) from error


def _batch_sums(model: nn.Module, task: Task, batch: tuple[Any, Any], samples: int) -> Tensor:
    inputs, targets = batch
    outputs = task.forward(model, like(inputs, model))
    metric = metric_of(task, outputs, targets, samples)
    loss = loss_of(task, outputs, targets).double() * samples
    return torch.stack([loss, metric.double().sum(), (~is_constant(outputs)).double()])


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU where it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def to_device(batch: Any, device: torch.device) -> Any:
    """Every tensor of a batch on ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(item, device) for item in batch)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    return batch


def like(inputs: Any, model: nn.Module) -> Any:
    """Inputs in double precision for a model of double precision; others as they are."""
    first = next(model.parameters(), None)
    if first is None or first.dtype != torch.float64:
        return inputs
    if isinstance(inputs, Tensor):
        return inputs.double() if inputs.is_floating_point() else inputs
    return type(inputs)(like(item, model) for item in inputs)


@contextlib.contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Train or eval mode for a while; every module then gets back the mode it had."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        model.train(before[model])
        for module, was in before.items():
            module.training = was
