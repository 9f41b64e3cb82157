"""Groups that are zero: which, where their elements lie, and how they are held there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sslcli.graph.groups import GroupSet
from sslcli.sparsity.bound import bind, group_zeros, spread


def zero_groups(parameters: Mapping[str, Tensor], group_sets: Sequence[GroupSet]) -> list[Tensor]:
    """For each set, bool (count,): the groups whose every element is exactly zero."""
    return [group_zeros(bind(parameters, group_set)) for group_set in group_sets]


def count_zeros(
    parameters: Mapping[str, Tensor], group_sets: Sequence[GroupSet]
) -> dict[str, tuple[int, int]]:
    """Zero groups and all groups per structure, over distinct sets."""
    counts: dict[str, tuple[int, int]] = {}
    for group_set in {(s.structure, s.label): s for s in group_sets}.values():
        zeros, total = counts.get(group_set.structure, (0, 0))
        here = int(group_zeros(bind(parameters, group_set)).sum())
        counts[group_set.structure] = (zeros + here, total + group_set.count)
    return counts


@torch.no_grad()
def zero_masks(
    parameters: Mapping[str, Tensor],
    group_sets: Sequence[GroupSet],
    chosen: Sequence[Tensor] | None = None,
) -> dict[str, Tensor]:
    """The elements of the zero groups.

    Args:
        parameters: parameters by name.
        group_sets: the groups to look at.
        chosen: for each set, bool (count,): take these groups instead of those that are zero.

    Returns:
        For each parameter that has such elements, a bool mask of its shape.
    """
    masks: dict[str, Tensor] = {}
    for number, group_set in enumerate(group_sets):
        bound = bind(parameters, group_set)
        dead = group_zeros(bound) if chosen is None else chosen[number].to(bound.views[0].values.device)
        if not dead.any():
            continue
        for view, (values, factor) in zip(
            group_set.views, spread(bound, dead.float(), outside=0.0), strict=True
        ):
            parameter = parameters[view.name]
            mask = masks.setdefault(view.name, torch.zeros_like(parameter, dtype=torch.bool))
            mask.view(values.shape).logical_or_((factor != 0).expand(values.shape))
    return {name: mask for name, mask in masks.items() if mask.any()}


class Freeze:
    """Holds the masked elements of a model at zero through an optimiser's steps.

    Args:
        parameters: parameters by name.
        masks: elements to hold, as ``zero_masks`` gives them.
    """

    def __init__(self, parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        self.masks = dict(masks)
        self._held = [(parameters[name], mask) for name, mask in masks.items()]

    @torch.no_grad()
    def gradients(self) -> None:
        """Clear the masked gradients; call between ``backward`` and the optimiser's step."""
        for parameter, mask in self._held:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0)

    @torch.no_grad()
    def weights(self) -> None:
        """Clear the masked weights; call after the optimiser's step."""
        for parameter, mask in self._held:
            parameter.masked_fill_(mask, 0)

    @torch.no_grad()
    def momentum(self, optimizer: torch.optim.Optimizer) -> None:
        """Clear the masked part of every state tensor that has its parameter's shape; call once."""
        for parameter, mask in self._held:
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == mask.shape:
                    value.masked_fill_(mask, 0)
