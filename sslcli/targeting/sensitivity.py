"""How much each layer loses without retraining: accuracy against the share of its groups that is removed.

The groups of least norm go first. Nothing is trained and few samples are seen, so the figures rank layers
and show where a layer breaks; they do not foretell the accuracy after fine-tuning. A target's controller
estimates the worth of every single group from gradients; ``probe`` measures what it can weigh whole sets by.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sslcli.data.source import DataSource, Split
from sslcli.errors import DataError
from sslcli.graph.groups import GroupSet, find_groups
from sslcli.graph.normalise import normalise
from sslcli.graph.slots import analyse
from sslcli.graph.trace import trace
from sslcli.sparsity.zeros import zero_masks
from sslcli.surgery.measure import group_norms
from sslcli.targeting.norms import Norm, find_norms, settled
from sslcli.training.evaluate import evaluate, measure
from sslcli.training.task import Task, classification
from sslcli.training.world import ALONE, World

FRACTIONS = (0.125, 0.25, 0.5, 0.75, 0.875)
_SAMPLES = 512


@dataclass(frozen=True)
class Curve:
    """One layer (or the layers that a group set spans).

    Attributes:
        structure: of the groups that are removed.
        label: the layers.
        groups: how many groups there are.
        removed: shares of them that really were removed, ascending; never all of them, so that a layer of
            few groups has few shares, and one of a single group none.
        metric: the metric at each share.
    """

    structure: str
    label: str
    groups: int
    removed: tuple[float, ...]
    metric: tuple[float, ...]


@dataclass(frozen=True)
class Sensitivity:
    """All curves.

    Attributes:
        metric: its name.
        whole: the metric of the model as it is, on the same samples.
        samples: how many were seen, of which split.
        split: validation, or test where there is no validation split.
        curves: one for each group set.
    """

    metric: str
    whole: float
    samples: int
    split: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Probe:
    """What a network loses without some groups of one set.

    Attributes:
        gone: the groups, bool (count,).
        rise: of the loss; negative where it fell, infinite where it is no number any more.
    """

    gone: Tensor
    rise: float


def sensitivity(
    model: nn.Module,
    example: tuple[Any, ...],
    data: DataSource,
    *,
    task: Task | None = None,
    structure: str = "filter",
    fractions: Sequence[float] = FRACTIONS,
    samples: int = _SAMPLES,
) -> Sensitivity:
    """Measure every layer's curve; the model is left as it was.

    Args:
        model: to be looked at.
        example: inputs that it can be traced with.
        data: with a validation (or else a test) split.
        task: what is learned; None: classification.
        structure: whose groups are removed.
        fractions: shares of a set's groups that are to be removed, as nearly as whole groups allow.
        samples: of the split that are seen.

    Raises:
        DataError: the data have neither a validation nor a test split.
    """
    name = task.metric_name if task is not None else "accuracy"
    split, seen = _few(data, samples)
    analysed = analyse(normalise(trace(model, example)))
    sets, norms = find_groups(analysed, structure), find_norms(analysed, model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    whole = evaluate(model, task, seen)[name]
    curves = []
    for group_set in sets:
        numbers = _numbers(group_set.count, fractions)
        values = []
        for number in numbers:
            gone = _least(group_set, parameters, number)
            with _without(model, group_set, gone, norms):
                values.append(evaluate(model, task, seen)[name])
        removed = tuple(number / group_set.count for number in numbers)
        curves.append(Curve(structure, group_set.label, group_set.count, removed, tuple(values)))
    return Sensitivity(name, whole, len(seen), split, tuple(curves))


def probe(
    model: nn.Module,
    data: DataSource,
    sets: Sequence[GroupSet],
    share: float,
    *,
    norms: Sequence[Norm] = (),
    task: Task | None = None,
    samples: int = _SAMPLES,
    world: World = ALONE,
) -> list[Probe | None]:
    """The loss without groups of least norm, one set at a time; None for a set of one living group.

    Args:
        model: on any device; left as it was.
        data: with a validation (or else a test) split.
        sets: of the model.
        share: of a set's living groups that are left out, as nearly as can be; never none or all.
        norms: of the model, which forget what is left out.
        task: what is learned; None: classification.
        samples: of the split that are seen.
        world: processes that share the work; all find the same.

    Raises:
        DataError: the data have neither a validation nor a test split.
    """
    _, seen = _few(data, samples)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    whole = evaluate(model, task, seen, world=world)["loss"]
    found: list[Probe | None] = []
    for group_set in sets:
        dead = (group_norms(group_set, parameters) == 0).cpu()
        living = int((~dead).sum())
        if living < 2:
            found.append(None)
            continue
        number = min(max(round(share * living), 1), living - 1)
        gone = _least(group_set, parameters, group_set.count - living + number) & ~dead
        with _without(model, group_set, gone, norms):
            found.append(Probe(gone, _loss(model, task, seen, world) - whole))
    return found


def _loss(model: nn.Module, task: Task | None, seen: Split, world: World) -> float:
    """The loss, infinite where a network that was cut no longer has one; its metric does not matter."""
    found = measure(model, task or classification(), seen, world=world, require_metric=False)
    return found.metrics["loss"] if math.isfinite(found.metrics["loss"]) else math.inf


def _few(data: DataSource, samples: int) -> tuple[str, Split]:
    """Samples spread evenly over the validation split, or over the test split where there is none."""
    for name in ("validation", "test"):
        split = getattr(data, name)
        if split is not None and len(split):
            return name, _Spread(split, min(samples, len(split)))
    raise DataError(f"{data.name} has neither validation nor test samples", "give data with one of them")


def _numbers(count: int, fractions: Sequence[float]) -> list[int]:
    """Numbers of groups nearest to the fractions of ``count``, each once: at least one, and never all."""
    found = {min(round(fraction * count), count - 1) for fraction in fractions}
    return sorted(number for number in found if number > 0)


def _least(group_set: GroupSet, parameters: Mapping[str, Tensor], number: int) -> Tensor:
    """Marks the groups of least norm, ``number`` of them, bool (count,)."""
    order = group_norms(group_set, parameters).argsort().cpu()
    gone = torch.zeros(group_set.count, dtype=torch.bool)
    gone[order[:number]] = True
    return gone


@contextlib.contextmanager
def _without(model: nn.Module, group_set: GroupSet, gone: Tensor, norms: Sequence[Norm]) -> Iterator[None]:
    """Groups are zero for a while, and norms have settled on that."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    tensors = {**dict(model.named_buffers(remove_duplicate=False)), **parameters}
    masks = zero_masks(parameters, [group_set], [gone])
    cut = {name: parameters[name].detach().masked_fill(mask, 0) for name, mask in masks.items()}
    # of filters that were zero before, norms stay as they are: the whole network is measured so too
    before = settled(norms, tensors)
    for name, value in settled(norms, {**tensors, **cut}).items():
        own = tensors[name].detach()
        cut[name] = torch.where(before[name] != own, own, value) if name in before else value
    kept = {name: tensors[name].detach().clone() for name in cut}
    with torch.no_grad():
        try:
            for name, value in cut.items():
                tensors[name].copy_(value)
            yield
        finally:
            for name, value in kept.items():
                tensors[name].copy_(value)


class _Spread:
    """Some samples of a split, evenly spread, since image folders are in the order of their classes."""

    def __init__(self, split: Split, count: int) -> None:
        self.split, self.count = split, count

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Tensor, *, seed: int = 0, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """As the split's own."""
        return self.split.batch(indices * len(self.split) // self.count, seed=seed, epoch=epoch)
