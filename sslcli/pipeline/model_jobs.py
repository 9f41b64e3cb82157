"""``prune``, ``export``, ``inspect`` and ``apply-plan``: jobs on the model itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslcli.errors import InputError, PlanError, TargetError, UsageError
from sslcli.files import atomic_output, lock_output, read_bounded
from sslcli.options.common import DataOptions, ModelOptions, RunOptions
from sslcli.options.steps import Settings
from sslcli.pipeline import inputs, results
from sslcli.pipeline.outputs import check_output, forget_nearest, nearest_path, plan_path, planned
from sslcli.pipeline.request import Request
from sslcli.pipeline.shape import as_row, shape_of_model, shape_of_onnx
from sslcli.pipeline.tasks import load_task, recorded_task_told

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sslcli.checkpoint import Checkpoint, Record
    from sslcli.data import DataSource
    from sslcli.options.prune import PruneOptions
    from sslcli.plan import Plan
    from sslcli.surgery import PruneResult

Observers = Sequence[Callable[[Any], None]]


def prune(request: Request, observers: Observers = ()) -> results.PruneResult:
    """Remove groups, prove the result, save it and its plan, and read it back."""
    from sslcli.surgery.prune import UnreachableError
    from sslcli.surgery.prune import prune as remove

    output, chosen = check_output(request), request.settings
    with lock_output(output, [plan_path(output), nearest_path(output)]), inputs.threads(chosen.run.threads):
        loaded = inputs.load_model(request.source, chosen.model, chosen.run.seed, chosen.data)
        options = chosen.step
        source = _data(request, loaded, needed=bool(options.recalibrate) or _learns_importance(options))
        try:
            pruned = remove(
                loaded.model,
                loaded.example,
                threshold=options.threshold,
                target=options.target or None,
                shares=_shares(options),
                structures=options.structures,
                keep=options.keep,
                limit=options.limit,
                min_width=options.min_width,
                align=options.align,
                scores=_scores(request, loaded, source),
                fold=options.fold,
            )
        except UnreachableError as error:
            path = nearest_path(output)
            missed = TargetError(error.what, f"{error.hint}; the nearest model is {path}")
            result = _saved(request, loaded, path, error.nearest, source)
            return dataclasses.replace(result, plan=None, failure=missed)
        if options.recalibrate:
            _recalibrate(pruned.model, _needed(source), options.recalibrate, request)
        result = _saved(request, loaded, output, pruned, source)
        _write_plan(output, pruned.plan)
        forget_nearest(request, output)
        return result


def _saved(
    request: Request, loaded: Checkpoint, output: Path, pruned: PruneResult, source: DataSource | None
) -> results.PruneResult:
    """Measure and save a pruned model, and read it back."""
    from sslcli import checkpoint

    record = _pruned_record(request, loaded, pruned)
    metrics = _test_metrics(request, pruned, source, record)
    checkpoint.save(pruned.model, output, example=pruned.example, record=record)
    return _prune_result(request, output, pruned, metrics)


def export(request: Request, observers: Observers = ()) -> results.ExportResult:
    """Write a model as ONNX, lowered for its target, or in another saved form."""
    from sslcli.lowering.public import export as write

    output, chosen = check_output(request), request.settings
    with lock_output(output), inputs.threads(None):
        what: Any = Path(request.source)
        record = None
        if inputs.is_onnx(request.source):
            record = onnx_record(what)
        else:
            what = inputs.load_model(request.source, chosen.model, chosen.run.seed, chosen.data)
            record = what.record
        record = record.followed_by("export", inputs.stated(request), inputs.parents(request))
        shape = None if chosen.model.input_shape is None else tuple(chosen.model.input_shape)
        written = write(what, output, record=record, options=chosen.step, input_shape=shape)
    return results.ExportResult(
        source=request.source,
        output=str(output),
        size_bytes=written.size_bytes,
        lowering=written.choice,
        max_abs_error=written.errors.max_abs,
        max_rel_error=written.errors.max_rel,
        layers=[_decision(decision) for decision in written.decisions],
        speedup=None if written.speedup is None else dataclasses.asdict(written.speedup),
        explain=chosen.step.explain,
        shape=shape_of_onnx(output, shape) if output.suffix == ".onnx" else None,
    )


def inspect(request: Request, observers: Observers = ()) -> results.InspectResult:
    """What a model consists of, what is zero in it, what pruning would leave, and why the rest stays."""
    from sslcli.surgery.inspect import inspect as look

    if inputs.is_onnx(request.source):
        from sslcli.pipeline.onnx_shape import inspect_onnx

        if request.settings.step.sensitivity:
            raise InputError("--sensitivity sets filters of a torch model to zero", "give the .pt2 instead")
        return inspect_onnx(Path(request.source), request.settings.model.input_shape)
    chosen = request.settings
    loaded = inputs.load_model(request.source, chosen.model, chosen.run.seed, chosen.data)
    found = look(loaded.model, loaded.example)
    groups = [dataclasses.asdict(group) for group in found.groups]
    return results.InspectResult(
        source=request.source,
        macs=found.macs,
        macs_packed=found.macs_packed,
        params=found.params,
        layers=[as_row(layer) for layer in found.layers],
        details={
            "left if pruned": {"macs": found.remaining.macs, "params": found.remaining.params},
            "groups": groups if chosen.step.groups else [],
            "unknown": list(found.unknown),
            "notes": [*loaded.notes, *found.notes],
            "record": json.loads(dataclasses.replace(loaded.record, plan=None).to_json()),
            **_sensitivity(request, loaded),
        },
    )


def _sensitivity(request: Request, loaded: Checkpoint) -> dict[str, Any]:
    chosen = request.settings
    if not chosen.step.sensitivity:
        return {}
    from sslcli.targeting.sensitivity import sensitivity

    source = _data(request, loaded, needed=True)
    if source is None:
        raise InputError("--sensitivity needs data", "name it with --data")
    task = load_task(chosen.step.task)
    with inputs.threads(chosen.run.threads):
        found = sensitivity(loaded.model, loaded.example, source, task=task)
    return {"sensitivity": dataclasses.asdict(found)}


def apply_plan(
    plan: Path, options: ModelOptions, output: Path, *, force: bool = False, dry_run: bool = False
) -> results.ApplyPlanResult | results.Planned:
    """The small model as the user's own class: a plan's JSON, or a pruned model with its weights."""
    from sslcli import checkpoint
    from sslcli import plan as plans
    from sslcli.checkpoint.reshape import reshaped

    if options.arch is None:
        raise UsageError("apply-plan needs the class that the plan is for", "name it with --arch")
    settings = Settings(None, options, DataOptions.model_validate({}), RunOptions.model_validate({}))
    request = Request("apply-plan", str(plan), output, settings, force=force)
    if dry_run:
        return planned(request)
    check_output(request)
    with lock_output(output):
        if plan.suffix == ".json":
            applied = plans.Plan.from_json(_read_plan(plan))
            fresh = inputs.load_model(f"arch:{options.arch}", options, 0, probe=applied.probe)
            small = reshaped(fresh.model, applied.to_json(), str(plan))
            example, record = fresh.example, fresh.record
            record = dataclasses.replace(record, plan=applied.to_json())
        else:
            loaded = inputs.load_model(str(plan), options, 0)
            small, example, record = loaded.model, loaded.example, loaded.record
            if record.plan is None:
                hint = "give a model that sslcli prune wrote, or a plan's JSON"
                raise PlanError(f"{plan} carries no plan", hint)
            if loaded.lost_class is not None:
                raise PlanError(loaded.lost_class, "use the .pt2 itself, which needs no class")
            _probe(small, plans.Plan.from_json(record.plan))
        record = record.followed_by("apply-plan", {}, [plan])
        checkpoint.save(small.eval(), output, example=example, record=record)
    return results.ApplyPlanResult(
        plan=str(plan),
        arch=options.arch,
        output=str(output),
        params=sum(parameter.numel() for parameter in small.parameters()),
        fresh_weights=plan.suffix == ".json",
    )


def onnx_record(path: Path) -> Record:
    """The record inside an ONNX file, empty where there is none."""
    from sslcli.checkpoint import Record
    from sslcli.lowering.files import read_onnx

    model = read_onnx(path)
    text = next((entry.value for entry in model.metadata_props if entry.key == "sslcli"), None)
    return Record() if text is None else Record.from_json(text, str(path))


def _data(request: Request, loaded: Checkpoint, *, needed: bool) -> DataSource | None:
    """The data set that is named; where the job needs one, else the one that the model's record names."""
    chosen = request.settings
    if chosen.data.data is None and not (needed and loaded.record.data is not None):
        return None
    return inputs.load_data(chosen.data, loaded.record, chosen.run.seed, inputs.input_shape_of(loaded))


def _needed(source: DataSource | None) -> DataSource:
    if source is None:
        raise InputError("importance taylor and recalibrate need data", "name it with --data")
    return source


def _learns_importance(options: PruneOptions) -> bool:
    """Whether what a filter is worth is told from data."""
    return options.importance == "taylor" and bool(options.target or options.shares)


def _shares(options: PruneOptions) -> dict[str, dict[str, float]]:
    """By structure the fractions by glob, in the order in which they hold."""
    shares: dict[str, dict[str, float]] = {}
    for entry in options.shares:
        globs = shares.setdefault(entry.name, {})
        globs.pop(entry.match, None)
        globs[entry.match] = entry.fraction
    return shares


def _scores(request: Request, loaded: Checkpoint, source: DataSource | None) -> dict[str, Tensor] | None:
    if not _learns_importance(request.settings.step):
        return None
    from sslcli.pipeline.importance import taylor

    chosen = request.settings
    return taylor(
        loaded.model, _needed(source), chosen.data.batch_size, chosen.run.seed, load_task(chosen.step.task)
    )


def _recalibrate(model: nn.Module, source: DataSource, batches: int, request: Request) -> None:
    from sslcli.pipeline.importance import training_batches
    from sslcli.training.recalibrate import recalibrate

    chosen = request.settings
    found = training_batches(source, batches, chosen.data.batch_size, chosen.run.seed)
    recalibrate(model, (batch for batch, _ in found))


def _pruned_record(request: Request, loaded: Checkpoint, pruned: PruneResult) -> Record:
    """The plan is told from the fresh class on, so that earlier prunings are part of it."""
    from sslcli.plan import Plan

    plan = pruned.plan
    if loaded.record.plan is not None:
        plan = Plan.from_json(loaded.record.plan).then(plan)
    return loaded.record.followed_by(
        request.command,
        inputs.stated(request),
        inputs.parents(request),
        plan=plan.to_json(),
        zero_groups=_zero_groups(pruned, _sparse_structures(request, loaded.record)),
    )


def _sparse_structures(request: Request, record: Record) -> list[str]:
    """The structures whose zero groups were learned or are chosen now, which fine-tuning holds at zero."""
    step = request.settings.step
    below = step.structures if step.threshold else ()
    return list(dict.fromkeys([*record.zero_groups, *below, *(entry.name for entry in step.shares)]))


def _zero_groups(pruned: PruneResult, kinds: Sequence[str]) -> dict[str, dict[str, int]]:
    """What is still zero of the structures in question (columns of layers that stay)."""
    from sslcli.graph.groups import find_groups
    from sslcli.graph.normalise import normalise
    from sslcli.graph.slots import analyse
    from sslcli.graph.trace import trace
    from sslcli.surgery.measure import group_norms

    structure = analyse(normalise(trace(pruned.model, pruned.example)))
    weights = structure.program.weights()
    counts: dict[str, dict[str, int]] = {}
    for kind in kinds:
        for found in find_groups(structure, kind):
            zero = int((group_norms(found, weights) == 0).sum())
            if zero:
                counts.setdefault(kind, {})[found.label] = zero
    return counts


def _read_back(request: Request, output: Path) -> Checkpoint:
    """The model as it was saved: its class, or the graph where that cannot become so small."""
    from sslcli import checkpoint, models

    named = inputs.code_arch(request.settings.model)
    fresh = request.source.removeprefix("arch:")
    if named is None and fresh != request.source and models.kind(fresh) == "code":
        named = fresh
    try:
        return checkpoint.load(output, arch=named)
    except PlanError as error:  # a class with sizes written into it; the plan was made just now
        loaded = checkpoint.load(output)
        return dataclasses.replace(loaded, lost_class=f"{named} cannot become so small: {error.what}")


def _write_plan(output: Path, plan: Plan) -> None:
    with atomic_output(plan_path(output)) as temporary:
        temporary.write_text(json.dumps(plan.to_json()) + "\n")


def _test_metrics(
    request: Request, pruned: PruneResult, source: DataSource | None, record: Record
) -> dict[str, dict[str, float]]:
    """On the test split, where there is one; before anything is written, since data may not fit the task."""
    from sslcli.training.evaluate import evaluate

    if source is None or source.test is None:
        return {}
    task = load_task(request.settings.step.task)
    with recorded_task_told(record):
        return {"test": evaluate(pruned.model, task, source.test)}


def _prune_result(
    request: Request, output: Path, pruned: PruneResult, metrics: dict[str, dict[str, float]]
) -> results.PruneResult:
    from sslcli.checkpoint.outputs import run_in_eval

    report = pruned.report
    again = _read_back(request, output)
    pairs = zip(
        run_in_eval(pruned.model, pruned.example), run_in_eval(again.model, pruned.example), strict=True
    )
    return results.PruneResult(
        source=request.source,
        output=str(output),
        plan=str(plan_path(output)),
        macs_before=report.macs_before,
        macs_after=report.macs_after,
        macs_packed=report.macs_packed,
        params_before=report.params_before,
        params_after=report.params_after,
        size_bytes=output.stat().st_size,
        max_abs_error=report.max_abs_error,
        max_rel_error=report.max_rel_error,
        reloaded_abs_error=max(float((a - b).abs().max()) for a, b in pairs),
        layers=[_pruned_layer(layer) for layer in report.layers],
        unknown=list(report.unknown),
        notes=[*report.notes, *([again.lost_class] if again.lost_class else [])],
        metrics=metrics,
        shape=shape_of_model(pruned.model, pruned.example),
        target=dict(request.settings.step.target),
        reached={name: _left(report, name) for name in request.settings.step.target},
    )


def _left(report: Any, name: str) -> float:
    """The fraction that is left of macs or params."""
    after, before = getattr(report, f"{name}_after"), getattr(report, f"{name}_before")
    return float(after / max(before, 1))


def _pruned_layer(layer: Any) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "filters": [layer.after[0] if layer.after else 0, layer.before[0]],
        "columns": list(layer.columns),
        "macs_before": layer.macs_before,
        "macs_after": layer.macs_after,
        "macs_packed": layer.macs_packed,
        "before": list(layer.before),
        "after": None if layer.after is None else list(layer.after),
        "why": "; ".join(layer.reasons),
    }


def _decision(decision: Any) -> dict[str, Any]:
    timings = {name: dataclasses.asdict(timed) for name, timed in decision.timings.items()}
    return {
        "layer": decision.layer,
        "op_type": decision.op_type,
        "weight_shape": list(decision.weight_shape),
        "live": decision.live,
        "choice": decision.chosen,
        "speedup": timings.get(decision.chosen, {}).get("speedup"),
        "timings": timings,
        "refused": dict(decision.refused),
        "from_cache": decision.from_cache,
        "note": decision.note,
    }


def _probe(model: nn.Module, plan: Plan) -> None:
    from sslcli.plan.probe import check_probe

    if plan.probe is not None:
        check_probe(model, plan.probe)


def _read_plan(path: Path) -> Any:
    """A plan's JSON, which at least says that it is one."""
    from sslcli.checkpoint.record import MAX_BYTES
    from sslcli.plan.plan import SCHEMA

    try:
        data = json.loads(read_bounded(path, MAX_BYTES))
    except OSError as error:
        raise PlanError(f"cannot read the plan {path} ({error.strerror})", "check the name") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path} is not JSON", "use the plan that sslcli prune wrote") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise PlanError(
            f"{path} is not a plan (its key schema is not {SCHEMA!r})", "use the .plan.json of sslcli prune"
        )
    return data


__all__ = ["apply_plan", "export", "inspect", "onnx_record", "prune"]
