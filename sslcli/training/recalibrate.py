"""Batch norm statistics estimated anew, for weights that changed after training (as by pruning)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sslcli.training.evaluate import mode
from sslcli.training.task import Task, call

Forward = Callable[[nn.Module, Any], Any]

# Far above any statistic, so that what a norm leaves of it tells its momentum to seven digits.
_PROBE = float(2**20)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Any], task: Task | None = None) -> int:
    """Replace every running mean and variance by the mean of its values over ``batches``.

    Everything but the norms runs as in eval mode (in a traced module, whose norms are nodes of a graph,
    dropout is active too). The model's modes and momenta are put back.

    Args:
        model: changed in place; left alone where it has no running statistics.
        batches: inputs of training batches, on the model's device.
        task: how the model is called.

    Returns:
        How many statistics were replaced.
    """
    forward = task.forward if task is not None else call
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if norms:
        _average_in_modules(model, norms, batches, forward)
        return 2 * len(norms)
    statistics = _statistics(model)
    if statistics:
        _average_in_graph(model, statistics, batches, forward)
    return len(statistics)


def _average_in_modules(
    model: nn.Module, norms: list[_BatchNorm], batches: Iterable[Any], forward: Forward
) -> None:
    with mode(model, training=False), _cumulative(norms):
        for inputs in batches:
            forward(model, inputs)


@contextlib.contextmanager
def _cumulative(norms: list[_BatchNorm]) -> Iterator[None]:
    """Norms in train mode that average all batches evenly."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.training = True
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _statistics(model: nn.Module) -> list[Tensor]:
    names = ("running_mean", "running_var")
    return [buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2] in names]


def _average_in_graph(
    model: nn.Module, statistics: list[Tensor], batches: Iterable[Any], forward: Forward
) -> None:
    """As a running value r becomes (1 - m) r + m s, r = 0 leaves m s; two probes of r give m."""
    totals = [torch.zeros_like(value, dtype=torch.float64) for value in statistics]
    shares: list[Tensor] = []
    count = 0
    with mode(model, training=True):
        for inputs in batches:
            if not shares:
                shares = _momenta(model, statistics, inputs, forward)
            _run_from(0.0, model, statistics, inputs, forward)
            for total, value in zip(totals, statistics, strict=True):
                total.add_(value)
            count += 1
    for total, share, value in zip(totals, shares, statistics, strict=True):
        value.copy_(total / (share * count))


def _momenta(model: nn.Module, statistics: list[Tensor], inputs: Any, forward: Forward) -> list[Tensor]:
    after = []
    for start in (_PROBE, 0.0):
        torch.manual_seed(0)  # dropout must not differ between the two
        _run_from(start, model, statistics, inputs, forward)
        after.append([value.double() for value in statistics])
    return [1 - (high - low) / _PROBE for high, low in zip(*after, strict=True)]


def _run_from(
    start: float, model: nn.Module, statistics: list[Tensor], inputs: Any, forward: Forward
) -> None:
    for value in statistics:
        value.fill_(start)
    forward(model, inputs)
