"""Two ways to minimise the penalty along with the loss: the proximal step and the paper's subgradient.

``Prox`` and ``Subgradient`` bind a list of weighted sets to a model once and are then called every step;
``prox_`` and ``subgradient_`` are the same for a single call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sslcli.sparsity.bound import spread
from sslcli.sparsity.penalty import Stage, WeightedSet, make_stages, stage_norms


def prox_(parameters: Mapping[str, Tensor], weighted_sets: Sequence[WeightedSet], step_size: float) -> None:
    """Block soft-thresholding in place: w_g <- w_g * max(0, 1 - step_size * weight_g / ||w_g||).

    This is the proximal operator of ``step_size * R``. It is exact where structures are nested (columns in
    channels, 2D kernels in filters), which are applied from inner to outer. Structures that cross (rows and
    columns) are applied in turn, each exactly; the composition approximates their joint operator.

    Args:
        parameters: parameters by name; those in the sets are changed.
        weighted_sets: the penalty; sets of strength 0 are left alone.
        step_size: of the optimiser's step that precedes (see ``sslcli.training.optimizer``).

    Reference:
        Jenatton, Mairal, Obozinski, Bach, "Proximal methods for hierarchical sparse coding", 2011.
    """
    Prox(parameters, weighted_sets).step(step_size)


def subgradient_(parameters: Mapping[str, Tensor], weighted_sets: Sequence[WeightedSet]) -> None:
    """Add the penalty's subgradient, weight_g * w_g / ||w_g|| and 0 at 0, to every ``.grad``.

    Reference:
        Wen et al., "Learning Structured Sparsity in Deep Neural Networks", 2016, and its released code.
    """
    Subgradient(parameters, weighted_sets).add()


class Prox:
    """``prox_`` bound to one model.

    Args:
        parameters: parameters by name; their memory is kept and changed by ``step``.
        weighted_sets: the penalty.
    """

    def __init__(self, parameters: Mapping[str, Tensor], weighted_sets: Sequence[WeightedSet]) -> None:
        self.stages = make_stages(parameters, weighted_sets)
        self._limits: list[Tensor] = []
        self._limits_of = 0.0

    @torch.no_grad()
    def step(self, step_size: float) -> None:
        """Apply the operator of ``step_size * R`` in place."""
        if step_size <= 0:
            return
        if step_size != self._limits_of:
            self._limits = [_limits(stage, step_size) for stage in self.stages]
            self._limits_of = step_size
        for stage, limits in zip(self.stages, self._limits, strict=True):
            # A group at or below its limit shrinks by exactly 1, and x - x is +0.0.
            _subtract_scaled(stage, torch.div(limits, stage_norms(stage)).clamp_(max=1))


class Subgradient:
    """``subgradient_`` bound to one model, with the released code's threshold after each update."""

    def __init__(self, parameters: Mapping[str, Tensor], weighted_sets: Sequence[WeightedSet]) -> None:
        self.stages = make_stages(parameters, weighted_sets)
        self._parameters = parameters

    @torch.no_grad()
    def add(self, factor: float = 1.0) -> None:
        """Add ``factor`` times the subgradient to the gradients; parameters without a gradient get one."""
        for stage in self.stages:
            norms = stage_norms(stage)
            factors = torch.where(norms > 0, stage.weights * factor / norms, 0)
            pairs = _spread_stage(stage, factors)
            for parameter, (values, scale) in zip(self._spanned(stage), pairs, strict=True):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.view(values.shape).addcmul_(values, scale)

    @torch.no_grad()
    def threshold(self, element_threshold: float) -> None:
        """Set single elements below ``element_threshold`` in magnitude to zero; they may revive later."""
        spanned = {id(parameter): parameter for stage in self.stages for parameter in self._spanned(stage)}
        for parameter in spanned.values():
            parameter.masked_fill_(parameter.abs() < element_threshold, 0)

    def _spanned(self, stage: Stage) -> list[Tensor]:
        """The parameter of every view of a stage, in the order of ``_spread_stage``."""
        return [self._parameters[view.name] for bound in stage.bound for view in bound.group_set.views]


def _limits(stage: Stage, step_size: float) -> Tensor:
    """The norm up to which a group ends at zero; never quite 0, so that zeros do not give 0/0."""
    return (stage.weights * step_size).clamp_(min=torch.finfo(stage.weights.dtype).tiny)


def _subtract_scaled(stage: Stage, shrink: Tensor) -> None:
    pairs = _spread_stage(stage, shrink)
    values = [value for value, _ in pairs]
    torch._foreach_addcmul_(values, values, [factor for _, factor in pairs], value=-1)


def _spread_stage(stage: Stage, per_group: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each view's memory with its factors; 0 outside of the groups, which leaves elements alone."""
    parts = torch.split(per_group, [bound.group_set.count for bound in stage.bound])
    pairs: list[tuple[Tensor, Tensor]] = []
    for bound, part in zip(stage.bound, parts, strict=True):
        pairs += spread(bound, part, outside=0.0)
    return pairs
