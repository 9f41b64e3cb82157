"""The course of the learning rate, as a function of the position in the run."""

from __future__ import annotations

import math

from sslcli.options.training import TrainOptions

_ONECYCLE_RISE = 0.3


def lr_factor(options: TrainOptions, epoch: float, epochs: float) -> float:
    """The learning rate at a position, as a fraction of ``options.lr``.

    Args:
        options: schedule, milestones, gamma and warmup.
        epoch: position in epochs, with fraction, from 0.
        epochs: length of the run (of its phase) in epochs.
    """
    rise = options.warmup
    if options.schedule == "onecycle" and rise == 0:
        rise = _ONECYCLE_RISE * epochs
    if epoch < rise:
        # the first step already moves: it stands at the end of its own small share of the rise
        return max(epoch / rise, 1e-3)
    if options.schedule == "step":
        milestones = options.milestones or (epochs / 2, 3 * epochs / 4)
        return options.gamma ** sum(epoch >= milestone for milestone in milestones)
    if options.schedule in ("cosine", "onecycle"):
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - rise) / max(epochs - rise, 1e-9))))
    return 1.0
