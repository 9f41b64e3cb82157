"""Prune a network: choose what goes, set it to zero, remove what is dead, prove the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from sslcli.errors import TargetError, UsageError
from sslcli.graph.groups import GroupSet, find_groups, matches
from sslcli.graph.module import TracedModule
from sslcli.graph.normalise import normalise
from sslcli.graph.program import Program
from sslcli.graph.readers import readers
from sslcli.graph.slots import Structure, analyse
from sslcli.graph.trace import trace
from sslcli.plan import Plan
from sslcli.plan.probe import make_probe
from sslcli.surgery.choose import Limits, choose
from sslcli.surgery.cut import Cut, count, cut
from sslcli.surgery.measure import Layer, group_rms, layers, packed_macs
from sslcli.surgery.shares import Shares, take_shares
from sslcli.surgery.shrink import STORED, Shrunk, shrink
from sslcli.surgery.verify import agreement
from sslcli.surgery.zero import Zeroing

DEFAULT_STRUCTURES = ("filter", "channel", "shape", "filter2d", "depth", "head")


@dataclass(frozen=True)
class LayerReport:
    """One layer before and after: weight shapes (None: gone), MACs of a sample, and why the rest stayed."""

    name: str
    kind: str
    before: tuple[int, ...]
    after: tuple[int, ...] | None
    columns: tuple[int, int]
    macs_before: int
    macs_after: int
    macs_packed: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class PruneReport:
    """Counts before and after. MACs are of one sample; errors are the worst over the inputs tried."""

    macs_before: int
    macs_after: int
    macs_packed: int
    params_before: int
    params_after: int
    max_abs_error: float
    max_rel_error: float
    layers: tuple[LayerReport, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PruneResult:
    """The smaller network, what was kept, and the figures."""

    model: nn.Module
    plan: Plan
    report: PruneReport
    example: Any


class UnreachableError(TargetError):
    """A target that pruning cannot meet.

    Attributes:
        nearest: what comes nearest: all that may go is removed.
    """

    def __init__(self, what: str, hint: str, nearest: PruneResult) -> None:
        super().__init__(what, hint)
        self.nearest = nearest


def prune(
    model: nn.Module,
    example: Any,
    *,
    threshold: float | None = None,
    target: Mapping[str, float] | None = None,
    shares: Shares | None = None,
    structures: Sequence[str] = DEFAULT_STRUCTURES,
    keep: Sequence[str] = (),
    limit: Mapping[str, float] | None = None,
    min_width: int = 1,
    align: int = 1,
    scores: Mapping[str, Tensor] | None = None,
    fold: bool = True,
) -> PruneResult:
    """Remove groups from a network.

    With ``threshold=0.0`` (the default without a target or shares) only what is exactly zero goes, and the
    result computes what the given model computes. Otherwise groups are chosen, set to zero, and then removed
    in the same way; ``plan.zeroed`` and ``plan.zeroed_blocks`` name them.

    Args:
        model: any module; it is left as it was.
        example: its positional inputs (a tuple, or one tensor), batch first.
        threshold: groups with ||w_g|| / sqrt(|g|) <= threshold go.
        target: fractions of ``macs`` and ``params`` that may be left.
        shares: filter, head, filter2d, shape or depth -> the fraction of such groups that goes in every
            layer, or glob -> fraction, of which the last that matches holds. With a threshold or a target
            too, each takes what it asks for.
        structures: what a threshold above 0 speaks of.
        keep: globs of layers that lose no filter.
        limit: glob -> the largest fraction of a layer's filters that a target or a share may take.
        min_width: filters that every layer keeps, under a target or a share.
        align: the filters that are left of a layer are rounded up to a multiple, where it has as many.
        scores: importance of every element of a parameter by name, for a target and shares of filters;
            default: for a target its square, for a share the size of the group.
        fold: let later biases take up the constants of removed channels.

    Raises:
        UsageError: an option says nothing that this network could follow.
        GraphError: nothing would be left, or the network cannot be traced.
        UnreachableError: with all that may go removed, more than the target is left.
        VerificationError: the result computes something else than the masked original.
    """
    if threshold is not None and threshold < 0:
        raise UsageError(f"the threshold is {threshold}", "give 0 or more")
    unknown = set(target or {}) - {"macs", "params"}
    if unknown:
        raise UsageError(f"prune has no target '{sorted(unknown)[0]}'", "give macs or params")
    traced = trace(model, example)
    owned = {name for name, kind in traced.kinds().items() if kind != InputKind.CONSTANT_TENSOR}
    program = normalise(traced)
    structure = analyse(program)
    _check_globs(structure, [*keep, *(limit or {})])
    zeroing = Zeroing.of(program.weights())
    if threshold:
        _under(structure, zeroing, threshold, structures, keep)
    limits = Limits(tuple(keep), dict(limit or {}), min_width, align)
    if shares:
        take_shares(structure, zeroing, shares, limits, scores, fold=fold)
    if target:
        found = choose(structure, zeroing, target, limits, scores, fold=fold)
    else:
        found = _cut(structure, zeroing.weights, fold=fold, align=align)
    passes, small = _until_nothing_goes(shrink(found), fold=fold, align=align)
    shrunk = passes[-1]
    proof = agreement(program, zeroing.weights, shrunk.program, shrunk.program.weights())
    result = TracedModule(shrunk.program)
    result.train(model.training)
    plan = _plan(program, owned, zeroing, passes, result)
    report = _report(structure, zeroing.weights, small, proof.max_abs_error, proof.max_rel_error)
    inputs = shrunk.program.example
    pruned = PruneResult(result, plan, report, inputs[0] if inputs else example)
    _check_target(structure, small, target, pruned)
    return pruned


def _check_globs(structure: Structure, globs: Sequence[str]) -> None:
    names = [layer.name for layer in layers(structure)]
    for glob in globs:
        if not any(matches(name, glob) for name in names):
            raise UsageError(f"the glob '{glob}' matches no layer", f"layers are {', '.join(names[:8])}, ...")


def _under(
    structure: Structure, zeroing: Zeroing, threshold: float, structures: Sequence[str], keep: Sequence[str]
) -> None:
    weights = dict(zeroing.weights)
    for kind in structures:
        for found in find_groups(structure, kind):
            if any(matches(found.label, glob) for glob in keep):
                continue
            size = group_rms(found, weights)
            chosen = (size <= threshold) & (size > 0)
            if bool(chosen.any()):
                zeroing.groups(found, chosen)
                if kind == "filter":
                    _small_biases(zeroing, found, chosen, threshold)


def _small_biases(zeroing: Zeroing, found: GroupSet, chosen: Tensor, threshold: float) -> None:
    """The bias of a removed filter goes with it where it is within the threshold itself."""
    for view in found.views:
        name = view.name.removesuffix("weight") + "bias"
        if name not in zeroing.weights or name == view.name:
            continue
        index = torch.arange(found.count) if view.index is None else view.index.reshape(-1)
        bias = zeroing.weights[name].detach()
        if len(bias) == len(index):
            small = (index >= 0) & chosen[index.clamp(min=0)] & (bias.abs().cpu() <= threshold)
            zeroing.slice(name, 0, torch.nonzero(small).reshape(-1))


def _check_target(
    structure: Structure, small: Structure, target: Mapping[str, float] | None, pruned: PruneResult
) -> None:
    if not target:
        return
    before, after = count(None, structure), count(None, small)
    for name, fraction in target.items():
        left = getattr(after, name) / max(getattr(before, name), 1)
        if left > fraction + 1e-9:
            raise UnreachableError(
                f"the target {name}={fraction:g} cannot be reached; with all that may go removed, "
                f"{left:.3f} would be left",
                "raise the target, or let go of --keep, --limit, --min-width, --align",
                pruned,
            )


def _cut(structure: Structure, weights: Mapping[str, Tensor], *, fold: bool, align: int) -> Cut:
    filters = [layer.rows for layer in readers(structure)] if align > 1 else []
    return cut(structure, weights, fold=fold, align=align, filters=filters)


def _until_nothing_goes(first: Shrunk, *, fold: bool, align: int) -> tuple[list[Shrunk], Structure]:
    """Shrink again where a tensor has become a stored value.

    Until then it held in place what it is added to, multiplied with or joined to; more may go afterwards.
    """
    passes, small = [first], analyse(first.program)
    while any(STORED.search(name) for name in passes[-1].added):
        again = shrink(_cut(small, small.program.weights(), fold=fold, align=align))
        if not again.kept:
            break
        passes.append(again)
        small = analyse(again.program)
    return passes, small


def _plan(
    program: Program, owned: set[str], zeroing: Zeroing, passes: Sequence[Shrunk], result: nn.Module
) -> Plan:
    whole: Plan | None = None
    for shrunk in passes:
        step = _step_plan(program, owned, shrunk)
        whole = step if whole is None else whole.then(step)
        program, owned = shrunk.program, owned | set(shrunk.added)
    assert whole is not None
    args, kwargs = program.example or ((), {})
    plain = not kwargs and all(isinstance(x, Tensor) for x in args)
    return replace(
        whole,
        zeroed=zeroing.as_lists(),
        zeroed_blocks=zeroing.blocks,
        probe=make_probe(result, args) if plain else None,
    )


def _step_plan(program: Program, owned: set[str], shrunk: Shrunk) -> Plan:
    weights = program.weights()
    own = set(shrunk.kept) & owned
    return Plan(
        kept={name: axes for name, axes in shrunk.kept.items() if name in own},
        zeroed={},
        zeroed_blocks={},
        shapes={name: list(weights[name].shape) for name in own},
        added={name: list(shape) for name, shape in shrunk.added.items()},
        probe=None,
    )


def _report(
    structure: Structure,
    weights: Mapping[str, Tensor],
    small: Structure,
    max_abs_error: float,
    max_rel_error: float,
) -> PruneReport:
    before, after = count(None, structure), count(None, small)
    left = {layer.weight: layer for layer in layers(small)}
    rows = [_layer_report(layer, left.get(layer.weight)) for layer in layers(structure, weights)]
    from sslcli.graph.ops import where

    return PruneReport(
        macs_before=before.macs,
        macs_after=after.macs,
        macs_packed=packed_macs(small),
        params_before=before.params,
        params_after=after.params,
        max_abs_error=max_abs_error,
        max_rel_error=max_rel_error,
        layers=tuple(rows),
        unknown=tuple(dict.fromkeys(where(node) for node in structure.unknown if node.all_input_nodes)),
        notes=structure.program.notes,
    )


def _layer_report(before: Layer, after: Layer | None) -> LayerReport:
    return LayerReport(
        name=before.name,
        kind=before.kind,
        before=before.shape,
        after=None if after is None else after.shape,
        columns=(after.columns[0] if after else 0, before.columns[1]),
        macs_before=before.macs,
        macs_after=0 if after is None else after.macs,
        macs_packed=0 if after is None else after.macs_packed,
        reasons=before.reasons,
    )
