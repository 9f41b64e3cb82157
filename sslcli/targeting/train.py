"""``train`` and ``regularize`` as users mean them: a model and data in, a trained copy out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslcli.data.catalogue import load_data
from sslcli.data.source import DataSource
from sslcli.graph.groups import GroupSet
from sslcli.graph.normalise import normalise
from sslcli.graph.readers import depthwise_weights
from sslcli.graph.slots import Structure, analyse
from sslcli.graph.trace import trace
from sslcli.options.training import RegularizeOptions, TrainOptions, completed, nothing_may_go
from sslcli.sparsity.penalty import WeightedSet
from sslcli.sparsity.zeros import zero_groups, zero_masks
from sslcli.targeting.budget import Budget
from sslcli.targeting.bundles import Bundler
from sslcli.targeting.controller import TargetController
from sslcli.targeting.groups import recorded_sets, weighted_sets, zero_counts
from sslcli.targeting.latency import Latency
from sslcli.targeting.left import watcher
from sslcli.targeting.norms import Norm, find_norms
from sslcli.targeting.replay import Replay, read_course
from sslcli.targeting.result import TrainResult
from sslcli.targeting.sensitivity import Probe, probe
from sslcli.targeting.target import Target, TargetMissedError
from sslcli.training.course import plan_course
from sslcli.training.evaluate import evaluate
from sslcli.training.loop import FitResult, fit
from sslcli.training.progress import Observer, Progress
from sslcli.training.strengths import choice_record, given
from sslcli.training.task import Task
from sslcli.training.world import ALONE, World

Zeros = Mapping[str, Mapping[str, int]]

_COLUMNS = ("shape", "filter2d")  # structures whose groups stay in the graph as zeros


def train(
    model: nn.Module,
    example: tuple[Any, ...],
    data: DataSource | str,
    *,
    options: TrainOptions | None = None,
    task: Task | None = None,
    teacher: nn.Module | None = None,
    zeros: Zeros | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    observers: Sequence[Observer] = (),
    state_path: Path | None = None,
    identity: Mapping[str, str] | None = None,
    world: World = ALONE,
) -> TrainResult:
    """Train or fine-tune a copy of ``model``.

    Args:
        model: left as it is.
        example: inputs that it can be traced with.
        data: with a train split, and a validation split by which epochs are judged; or its name.
        options: epochs, optimiser and the rest; None: the defaults.
        task: what is learned; None: classification.
        teacher: model whose outputs are distilled.
        zeros: zero groups that the model's record names; they are held at zero unless
            ``options.freeze_zeros`` is False.
        batch_size: samples per step over all processes.
        seed: of every random choice.
        device: where to train.
        observers: told of progress.
        state_path: file that the run's state is kept in, to go on after a kill.
        identity: what else a continuation must share, by name.
        world: processes that train together.
    """
    options = options or TrainOptions.model_validate({})
    freeze = options.freeze_zeros if options.freeze_zeros is not None else bool(zeros)
    options = options.model_copy(update={"freeze_zeros": freeze})
    held = recorded_sets(_structure(model, example), zeros or {}) if zeros else []
    trained = _copy(model, device)
    result = fit(
        trained,
        task,
        _source(data, seed),
        options,
        batch_size=batch_size,
        seed=seed,
        held=held,
        observers=observers,
        state_path=state_path,
        identity=identity,
        teacher=_on(teacher, device),
        world=world,
    )
    found = _zero_counts(trained, held)
    return TrainResult(trained.cpu().eval(), example, result, found)


def regularize(
    model: nn.Module,
    example: tuple[Any, ...],
    data: DataSource | str,
    *,
    structures: object = None,
    options: RegularizeOptions | None = None,
    task: Task | None = None,
    teacher: nn.Module | None = None,
    zeros: Zeros | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    observers: Sequence[Observer] = (),
    state_path: Path | None = None,
    identity: Mapping[str, str] | None = None,
    world: World = ALONE,
) -> TrainResult:
    """Fine-tune a copy of ``model`` with group Lasso until whole groups are exactly zero.

    Args:
        model: left as it is; pretrained, in the order of the paper.
        example: inputs that it can be traced with.
        data: with a train split, and a validation split by which epochs are judged; or its name.
        structures: such as ``{"filter": 5e-3, "shape": {"conv2": 1e-2}}``, in any form that a recipe takes;
            None: those of ``options``.
        options: epochs, optimiser, solver and the rest; None: the defaults.
        task: what is learned; None: classification.
        teacher: model whose outputs are distilled.
        zeros: zero groups that the model's record names, held at zero where ``options.freeze_zeros`` is True.
        batch_size: samples per step over all processes.
        seed: of every random choice.
        device: where to train.
        observers: told of progress.
        state_path: file that the run's state is kept in, to go on after a kill.
        identity: what else a continuation must share, by name.
        world: processes that train together.

    Raises:
        UsageError: no structure is given, or options contradict each other.
        InputError: a structure matches nothing in the network.
        TargetError: training diverged or collapsed, or the target was not met.

    Reference:
        Wen et al., "Learning Structured Sparsity in Deep Neural Networks", 2016.
    """
    options = completed(options or RegularizeOptions.model_validate({}), structures)
    structure = _structure(model, example)
    penalties = weighted_sets(structure, options.structures, options.size_weights, options.depth_unit)
    _require_groups(options, penalties)
    held = recorded_sets(structure, zeros or {}) if options.freeze_zeros else []
    source, trained = _source(data, seed), _copy(model, device)
    steps = plan_course(options, len(source.split("train")), batch_size).phases[0].steps
    course = None
    if options.replay is not None:
        told = given(options, batch_size, seed)
        course = read_course(Path(options.replay), penalties, steps, told)
    sets = [weighted.group_set for weighted in penalties]
    norms = find_norms(structure, trained) if options.target else []
    probes: Sequence[Probe | None] = ()
    if options.sensitivity_start and course is None:
        probes = _probes(trained, task, source, options, penalties, norms, world)
    latency = None
    if "latency" in options.target and course is None:
        columns = _columns_go(options)
        latency = Latency(model, example, structure, columns=columns, world=world, live=trained, norms=norms)
    if latency is not None and not _goes_on(options, state_path, world):
        _ = latency.table  # measured now, since within the run it would count as training
    watch = watcher(structure, None if latency is None else latency.estimate, trained, norms)
    chooses = structure if options.target and course is None else None
    bundler = Bundler(chooses, sets, [weighted.strength > 0 for weighted in penalties])
    aim = None if latency is None else options.target["latency"]
    budget = Budget(sets, watch, latency, bundler, trained, norms, aim)
    target = _target(trained, task, source, options, world)
    controller: TargetController | Replay | None = None
    if course is not None:
        controller = Replay(penalties, course, budget.settle)
    elif target is not None:
        controller = TargetController(penalties, target, budget, steps, depthwise_weights(structure), probes)
    result = fit(
        trained,
        task,
        source,
        options,
        batch_size=batch_size,
        seed=seed,
        penalties=penalties,
        held=held,
        watch=budget.now,
        observers=observers,
        state_path=state_path,
        identity=identity,
        teacher=_on(teacher, device),
        controller=controller,
        world=world,
    )
    parameters = dict(trained.named_parameters(remove_duplicate=False))
    sound = controller is not None and result.spoiled is None
    if controller is not None and sound and controller.lacks(parameters, result.steps):
        chosen = controller.choose(parameters, result.steps)
        _make_up(parameters, penalties, chosen)
        _tell_choice(observers if world.writes else (), result, chosen)
        metrics = dict(evaluate(trained, task, source.split("validation"), world=world))
        result = replace(result, metrics=metrics, left=dict(budget.now(parameters)))
    if options.target and result.spoiled is not None:  # maybe before anything went for good
        budget.settle(parameters, [torch.zeros(entry.count, dtype=torch.bool) for entry in sets])
        metrics = dict(evaluate(trained, task, source.split("validation"), world=world))
        result = replace(result, metrics=metrics, left=dict(budget.now(parameters)))
    found = _zero_counts(trained, [*(weighted.group_set for weighted in penalties), *held])
    trained_result = TrainResult(trained.cpu().eval(), example, result, found)
    if target is None:
        return trained_result
    measured = {}
    if latency is not None:
        measured["latency"] = latency.measure(dict(trained.named_parameters()), last=True)
    return _judged(trained_result, target, measured)


def _target(
    model: nn.Module, task: Task | None, data: DataSource, options: RegularizeOptions, world: World
) -> Target | None:
    """The target of the options; the metric to start from is that of the model as given."""
    if not options.target:
        return None
    metrics = evaluate(model, task, data.split("validation"), world=world)
    name = task.metric_name if task is not None else "accuracy"
    columns = _columns_go(options)
    left = {
        _counted(str(fraction), columns): limit
        for fraction, limit in options.target.items()
        if fraction != "latency" or options.replay is None  # a replay measures nothing
    }
    return Target(left, options.max_drop, metrics[name], name)


def _probes(
    model: nn.Module,
    task: Task | None,
    data: DataSource,
    options: RegularizeOptions,
    penalties: Sequence[WeightedSet],
    norms: Sequence[Norm],
    world: World,
) -> list[Probe | None]:
    """What each set is weighed by: a cut as deep as one of all filters alike to the target would be."""
    share = 1 - min(options.target.values()) ** 0.5  # of both sides of a layer
    sets = [weighted.group_set for weighted in penalties if weighted.strength > 0]
    found = iter(probe(model, data, sets, share, norms=norms, task=task, world=world))
    return [next(found) if weighted.strength > 0 else None for weighted in penalties]


def _columns_go(options: RegularizeOptions) -> bool:
    """Whether columns or 2D kernels may go, anywhere."""
    return any(entry.name in _COLUMNS and entry.strength > 0 for entry in options.structures)


def _counted(fraction: str, columns: bool) -> str:
    """What a target's fraction is counted by.

    Dead columns and 2D kernels change nothing in the graph as executed, so where they may go, MACs are
    those of live rows x live columns, which a lowering executes.
    """
    return "macs_packed" if fraction == "macs" and columns else fraction


def _goes_on(options: RegularizeOptions, state_path: Path | None, world: World) -> bool:
    """Whether there is a state to continue from, which holds the table of latencies too."""
    there = state_path is not None and state_path.exists() and options.resume != "never"
    return world.share(there)


@torch.no_grad()
def _make_up(
    parameters: Mapping[str, Tensor], penalties: Sequence[WeightedSet], chosen: Sequence[Tensor]
) -> None:
    """Zero the groups that were chosen after fine-tuning."""
    sets = [weighted.group_set for weighted in penalties]
    for name, mask in zero_masks(parameters, sets, chosen).items():
        parameters[name].masked_fill_(mask, 0)


def _tell_choice(observers: Sequence[Observer], result: FitResult, chosen: Sequence[Tensor]) -> None:
    """Let a replay know of the groups that were chosen after fine-tuning."""
    record = Progress("strengths", "finetune", result.epochs, result.steps, applied=choice_record(chosen))
    for observer in observers:
        observer(record)


def _judged(result: TrainResult, target: Target, measured: Mapping[str, float]) -> TrainResult:
    """The result with what it reached, measured where it was; TargetMissedError where that is not enough."""
    fit = replace(result.fit, left={**result.fit.left, **measured})
    left = {name: fit.left[name] for name in target.left}
    result = replace(result, fit=fit, reached={**left, "drop": target.drop(result.metrics)})
    missed = target.misses(left, result.metrics)
    if missed or fit.spoiled is not None:
        raise TargetMissedError(missed, result, fit.spoiled)
    return result


def check_structures(model: nn.Module, example: tuple[Any, ...], options: RegularizeOptions) -> None:
    """Refuse options that name no structure of the network, before data are read through it.

    Raises:
        UsageError: no structure is given, or none that may lose groups for a target.
        InputError: a structure matches nothing in the network.
    """
    options = completed(options)
    if options.target or any(entry.match != "*" for entry in options.structures):
        structure = _structure(model, example)
        penalties = weighted_sets(structure, options.structures, options.size_weights, options.depth_unit)
        _require_groups(options, penalties)


def _require_groups(options: RegularizeOptions, penalties: Sequence[WeightedSet]) -> None:
    """Refuse a target where the strengths leave nothing that may go, before anything is trained."""
    if options.target and not any(weighted.strength > 0 for weighted in penalties):
        raise nothing_may_go(options)


def _source(data: DataSource | str, seed: int) -> DataSource:
    return load_data(data, seed=seed) if isinstance(data, str) else data


def _structure(model: nn.Module, example: tuple[Any, ...]) -> Structure:
    return analyse(normalise(trace(model, example)))


def _copy(model: nn.Module, device: torch.device | str) -> nn.Module:
    """A copy on ``device`` whose parameters lie contiguously, as groups are views of them."""
    copied = copy.deepcopy(model).to(device)
    for parameter in copied.parameters():
        parameter.data = parameter.data.contiguous()
    return copied


def _on(teacher: nn.Module | None, device: torch.device | str) -> nn.Module | None:
    return None if teacher is None else copy.deepcopy(teacher).to(device)


def _zero_counts(model: nn.Module, sets: Sequence[GroupSet]) -> dict[str, dict[str, int]]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return zero_counts(sets, [int(zeros.sum()) for zeros in zero_groups(parameters, sets)])
