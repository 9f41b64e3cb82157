"""What is learned: how outputs and targets make a loss and a metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sslcli.errors import DataError, InputError, UsageError, kind_of

# The weight of auxiliary heads' losses in the networks that have them (Szegedy et al. 2015).
_AUXILIARY = 0.3

# What stands beside a metric in records and in `evaluate --json`, where its name is a key.
TAKEN_NAMES = ("schema", "source", "data", "split", "samples", "metrics", "seconds", "made", "loss")


def call(model: nn.Module, inputs: Any) -> Any:
    """Run a model on the inputs of a batch, a tensor or a tuple of tensors."""
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


@dataclass(frozen=True)
class Task:
    """Functions that say what is learned.

    Args:
        name: for records.
        loss: (outputs, targets) -> scalar, the mean over the batch's samples.
        metric: (outputs, targets) -> float (samples,), of each sample; higher is better.
        metric_name: what the mean of ``metric`` is called.
        distill: (outputs, teacher's outputs, temperature) -> scalar, or None where a teacher cannot be used.
        forward: (model, inputs) -> outputs.

    Raises:
        InputError: the metric's name is taken by something that stands beside it.
    """

    name: str
    loss: Callable[[Any, Any], Tensor]
    metric: Callable[[Any, Any], Tensor]
    metric_name: str = "accuracy"
    distill: Callable[[Any, Any, float], Tensor] | None = None
    forward: Callable[[nn.Module, Any], Any] = call

    def __post_init__(self) -> None:
        if self.metric_name in TAKEN_NAMES:
            raise InputError(
                f"the metric of the task {self.name} is called {self.metric_name}, which is taken",
                f"choose another metric_name than {', '.join(TAKEN_NAMES)}",
            )


def loss_of(task: Task, outputs: Any, targets: Any) -> Tensor:
    """The task's loss of a batch; InputError where it is no scalar tensor, which is the task's fault."""
    return _scalar(task, "loss", task.loss(outputs, targets))


def learned_loss(task: Task, outputs: Any, targets: Any) -> Tensor:
    """``loss_of`` to learn by; InputError where it does not lead back to the model's weights."""
    loss = loss_of(task, outputs, targets)
    if not loss.requires_grad:
        raise InputError(
            f"the loss of the task {task.name} has no gradient, so nothing can be learned by it",
            "compute it from the outputs, without detach() or torch.no_grad()",
        )
    return loss


def distillation_of(task: Task, outputs: Any, taught: Any, temperature: float) -> Tensor:
    """The distance from the teacher's outputs; InputError where it is no scalar tensor."""
    assert task.distill is not None  # check_teacher has seen to it
    return _scalar(task, "distill", task.distill(outputs, taught, temperature))


def check_teacher(task: Task | None, teacher: object) -> None:
    """Refuse a teacher where the task does not say how to learn from one.

    Args:
        task: None: classification, which does.
        teacher: the model or its name; None: there is none.

    Raises:
        UsageError: there is a teacher, and the task has no ``distill``.
    """
    if teacher is not None and task is not None and task.distill is None:
        raise UsageError(
            f"the task {task.name} says nothing of teachers",
            "give it a distill(outputs, taught, temperature), or leave --teacher out",
        )


def metric_of(task: Task, outputs: Any, targets: Any, samples: int) -> Tensor:
    """The task's metric of a batch; InputError where it is not one value for each of its ``samples``."""
    metric = task.metric(outputs, targets)
    if isinstance(metric, Tensor) and metric.shape == (samples,):
        return metric
    raise InputError(
        f"the metric of the task {task.name} is {_kind(metric)} on {samples} samples, "
        f"not a value for each, of shape ({samples},)",
        "return a tensor of shape (samples,) from the task's metric",
    )


def _scalar(task: Task, function: str, value: object) -> Tensor:
    if isinstance(value, Tensor) and value.dim() == 0:
        return value
    made = isinstance(value, int | float)
    raise InputError(
        f"the {function} of the task {task.name} is {_kind(value)}, not a scalar tensor",
        "return the tensor itself, since a number made of it has no gradient"
        if made
        else f"return a scalar from the task's {function}, such as the mean over the samples",
    )


def _kind(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else kind_of(value)


def classification(label_smoothing: float = 0.0) -> Task:
    """Cross entropy and accuracy on logits (N, classes) and class numbers (N,)."""

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        _check_form(outputs, targets)
        main, auxiliary = heads(outputs)
        _check_labels(main, targets)
        total = F.cross_entropy(main, targets, label_smoothing=label_smoothing)
        for head in auxiliary:
            total = total + _AUXILIARY * F.cross_entropy(head, targets, label_smoothing=label_smoothing)
        return total

    return Task("classification", loss, correct, distill=soft_cross_entropy)


class NotClassesError(InputError):
    """A model or data that have another task than classification, while none is named."""


def _check_form(outputs: Any, targets: Any) -> None:
    """Raise NotClassesError unless all outputs are (N, classes, ...) and the targets fit them."""
    tensors = [value for value in _values(outputs).values() if isinstance(value, Tensor)]
    first = tensors[0].shape if tensors else torch.Size()
    expected = (first, first[:1] + first[2:])  # probabilities, or class numbers
    if (
        len(first) < 2
        or any(tensor.shape != first for tensor in tensors)
        or not (isinstance(targets, Tensor) and targets.shape in expected)
    ):
        raise NotClassesError(
            f"classification takes outputs (samples, classes) and targets (samples), but the model gives "
            f"{_shapes(outputs)} and the data {_shapes(targets)}",
            "name what is learned with --task file.py:factory",
        )


def _values(value: Any) -> dict[Any, Any]:
    """The parts of a model's outputs by name or number."""
    if isinstance(value, dict):
        return value
    return dict(enumerate(value)) if isinstance(value, tuple | list) else {0: value}


def _shapes(value: Any) -> str:
    """The shape of each part, named where it has a name, the batch as ``samples``."""
    parts = [
        f"{name}: {_shape(part)}" if isinstance(name, str) else _shape(part)
        for name, part in _values(value).items()
    ]
    return " and ".join(parts) or kind_of(value)


def _shape(part: Any) -> str:
    if not isinstance(part, Tensor):
        return kind_of(part)
    return f"({', '.join(['samples', *map(str, part.shape[1:])])})" if part.dim() else "a scalar"


def _check_labels(outputs: Tensor, targets: Tensor) -> None:
    """Raise DataError where a label is no class of the model; on CUDA this would wait, and is left out."""
    if targets.device.type == "cpu" and not targets.is_floating_point() and outputs.dim() > 1:
        highest = int(targets.max())
        if highest >= outputs.shape[1]:
            raise DataError(
                f"the data have the label {highest}, but the model tells {outputs.shape[1]} classes apart",
                "use a model with as many outputs as the data have classes",
            )


def correct(outputs: Any, targets: Tensor) -> Tensor:
    """1.0 where the largest logit is the target's, else 0.0; shape (N,).

    Raises:
        NotClassesError: outputs or targets are not those of a classifier.
    """
    _check_form(outputs, targets)
    return (heads(outputs)[0].argmax(dim=1) == targets).float()


def soft_cross_entropy(outputs: Any, taught: Any, temperature: float) -> Tensor:
    """Kullback-Leibler divergence from the teacher's softened probabilities, times temperature squared.

    Reference:
        Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """
    student = F.log_softmax(heads(outputs)[0] / temperature, dim=1)
    teacher = F.log_softmax(heads(taught)[0] / temperature, dim=1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean") * temperature**2


def heads(outputs: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The main output of a network and those of its auxiliary heads (some networks have them in training)."""
    if isinstance(outputs, Tensor):
        return outputs, ()
    tensors = [value for value in _values(outputs).values() if isinstance(value, Tensor)]
    return tensors[0], tuple(tensors[1:])


def is_constant(outputs: Any) -> Tensor:
    """Whether every sample of a batch got the same output, as a bool scalar; False for single samples."""
    main = next((leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)), torch.zeros(()))
    if main.dim() == 0 or len(main) < 2:
        return torch.zeros((), dtype=torch.bool, device=main.device)
    return (main == main[:1]).all()
