"""The penalty R(W): what it is, its value, and the order in which its structures are handled.

R(W) = sum over structures s and groups g: strength_s * sqrt(|g|) * ||w_g||_2

Reference:
    Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006
    (the factor sqrt(|g|)); Wen et al., "Learning Structured Sparsity in Deep Neural Networks", 2016.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sslcli.graph.groups import GroupSet
from sslcli.sparsity.bound import BoundSet, bind, group_norms

# Inner structures before those that contain them: a tree of groups then has an exact prox.
INNER_TO_OUTER = ("filter2d", "shape", "filter", "channel", "hidden", "head", "depth")

# Elements, counted once for each structure, of the weights whose stages are taken together.
_CACHE_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class WeightedSet:
    """A group set with its strength in the penalty.

    Args:
        group_set: the groups.
        strength: factor of the penalty; 0 leaves the set alone.
        size_weights: weigh each group by the square root of its number of elements.
        shares: (count,), a further factor for each group; None: all alike.
    """

    group_set: GroupSet
    strength: float
    size_weights: bool = True
    shares: Tensor | None = None


@dataclass(frozen=True)
class Stage:
    """Bound sets that share no element, so that one pass handles them together.

    Args:
        bound: the sets.
        positions: of these sets in the list the stages were made from.
        weights: (all groups of the stage,), strength * sqrt(|g|) or strength.
    """

    bound: tuple[BoundSet, ...]
    positions: tuple[int, ...]
    weights: Tensor


def penalty(
    parameters: Mapping[str, Tensor],
    group_sets: Sequence[GroupSet],
    strengths: Sequence[float],
    size_weights: bool = True,
) -> Tensor:
    """The value R(W), a scalar without a gradient."""
    weighted = [
        WeightedSet(group_set, strength, size_weights)
        for group_set, strength in zip(group_sets, strengths, strict=True)
    ]
    return stages_value(make_stages(parameters, weighted))


@torch.no_grad()
def stages_value(stages: Sequence[Stage]) -> Tensor:
    """R(W) of prepared stages, a scalar."""
    terms = [(stage.weights * stage_norms(stage)).sum() for stage in stages]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def stage_norms(stage: Stage) -> Tensor:
    """The norms of all groups of a stage, set after set."""
    norms = [group_norms(bound) for bound in stage.bound]
    return norms[0] if len(norms) == 1 else torch.cat(norms)


def make_stages(parameters: Mapping[str, Tensor], weighted_sets: Sequence[WeightedSet]) -> list[Stage]:
    """Bind the sets of non-zero strength and order them from inner to outer structures.

    Sets of one structure share no element; those that are connected through shared parameters form one
    stage. A set that is listed twice gets a second stage, whose soft-thresholding adds to that of the first.
    """
    stages = []
    for positions in _stage_positions(weighted_sets):
        chosen = [weighted_sets[position] for position in positions]
        bound = tuple(bind(parameters, weighted.group_set) for weighted in chosen)
        weights = torch.cat(
            [_group_weights(weighted, b.views[0].values) for weighted, b in zip(chosen, bound, strict=True)]
        )
        stages.append(Stage(bound, tuple(positions), weights))
    return stages


def _stage_positions(weighted_sets: Sequence[WeightedSet]) -> Iterator[list[int]]:
    active = [position for position, weighted in enumerate(weighted_sets) if weighted.strength > 0]
    # Weight after weight, so that a weight's second stage finds it in the cache; small ones at a time.
    for rest in _together(weighted_sets, _connected(weighted_sets, active)):
        rest.sort(key=lambda position: _rank(weighted_sets[position].group_set.structure))
        while rest:
            structure = weighted_sets[rest[0]].group_set.structure
            seen: set[str] = set()
            stage, later = [], []
            for position in rest:
                group_set = weighted_sets[position].group_set
                if group_set.structure == structure and group_set.label not in seen:
                    seen.add(group_set.label)
                    stage.append(position)
                else:
                    later.append(position)
            yield stage
            rest = later


def _connected(weighted_sets: Sequence[WeightedSet], positions: Sequence[int]) -> list[list[int]]:
    """Positions of sets that share parameters, directly or through others."""
    clusters: list[tuple[set[str], list[int]]] = []
    for position in positions:
        names = {view.name for view in weighted_sets[position].group_set.views}
        touching = [cluster for cluster in clusters if cluster[0] & names]
        clusters = [cluster for cluster in clusters if not cluster[0] & names]
        members = [member for cluster in touching for member in cluster[1]]
        clusters.append((names.union(*(cluster[0] for cluster in touching)), [*members, position]))
    return [sorted(members) for _, members in clusters]


def _together(weighted_sets: Sequence[WeightedSet], clusters: Sequence[list[int]]) -> list[list[int]]:
    """Neighbouring clusters joined while they fit a cache: what a stage costs besides memory is paid once."""
    joined: list[list[int]] = []
    room = 0
    for cluster in clusters:
        size = sum(int(weighted_sets[position].group_set.sizes.sum()) for position in cluster)
        if size <= room:
            joined[-1] += cluster
            room -= size
        else:
            joined.append(list(cluster))
            room = _CACHE_ELEMENTS - size
    return joined


def _rank(structure: str) -> int:
    return INNER_TO_OUTER.index(structure) if structure in INNER_TO_OUTER else len(INNER_TO_OUTER)


def _group_weights(weighted: WeightedSet, like: Tensor) -> Tensor:
    sizes = weighted.group_set.sizes.to(
        device=like.device, dtype=torch.promote_types(like.dtype, torch.float32)
    )
    scale = sizes.sqrt() if weighted.size_weights else torch.ones_like(sizes)
    if weighted.shares is not None:
        scale = scale * weighted.shares.to(scale)
    return scale * weighted.strength
