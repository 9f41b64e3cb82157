"""One function a command: a request in, a result out; used by the command line and by recipes alike.

A job loads, calls the library, saves, and says what came of it. Nothing is printed here.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sslcli.errors import GateError
from sslcli.files import atomic_output, check_own_text, require_apart
from sslcli.pipeline import results
from sslcli.pipeline.command_line import made
from sslcli.pipeline.inputs import (
    choose_device,
    input_shape_of,
    is_onnx,
    load_data,
    load_model,
    threads,
    warn_of_chance,
)
from sslcli.pipeline.model_jobs import export, inspect, onnx_record, prune
from sslcli.pipeline.outputs import written
from sslcli.pipeline.request import Request
from sslcli.pipeline.tasks import load_task, recorded_task_told
from sslcli.pipeline.training_jobs import regularize, train

Observers = Sequence[Callable[[Any], None]]


def evaluate(request: Request, observers: Observers = ()) -> results.EvaluateResult:
    """Measure a model, torch or ONNX, on one split of a data set."""
    from sslcli.pipeline.onnx_module import OnnxModule
    from sslcli.training.evaluate import evaluate as measure

    chosen = request.settings
    started = time.monotonic()
    device = choose_device(chosen.run)
    if is_onnx(request.source):
        record = onnx_record(Path(request.source))  # vets the file before ONNX Runtime sees it
        model: Any = OnnxModule(Path(request.source), chosen.run.threads)
        shape = model.input_shape
    else:
        loaded = load_model(request.source, chosen.model, chosen.run.seed, chosen.data)
        model, record, shape = loaded.model.to(device), loaded.record, input_shape_of(loaded)
    source = load_data(chosen.data, record, chosen.run.seed, shape)
    split = source.split(chosen.step.split)
    task = load_task(chosen.step.task)
    with threads(chosen.run.threads), recorded_task_told(record):
        metrics = measure(model, task, split, batch_size=max(256, chosen.data.batch_size))
    if not request.source.startswith("arch:"):
        warn_of_chance(metrics, source, request.source)
    return results.EvaluateResult(
        source=request.source,
        data=source.name,
        split=chosen.step.split,
        samples=len(split),
        metrics=metrics,
        seconds=time.monotonic() - started,
    )


def bench(request: Request, observers: Observers = ()) -> results.BenchResult:
    """Time the base against the others; models that are not ONNX are exported first, as they are."""
    from sslcli.bench.public import bench as time_models
    from sslcli.bench.tables import CSV_BEGINS, MARKDOWN_BEGINS
    from sslcli.pipeline.earlier import read_earlier, since

    chosen = request.settings.step
    require_apart(written(request))
    for name, beginning in ((chosen.csv, CSV_BEGINS), (chosen.markdown, MARKDOWN_BEGINS)):
        if name is not None:
            check_own_text(Path(name), beginning, "a table of sslcli bench", force=request.force)
    old = read_earlier(chosen) if chosen.compare else None
    has_base = chosen.baseline and chosen.baseline != request.source
    sources = [*([chosen.baseline] if has_base else []), request.source, *request.others]
    labels = unique_labels(sources)
    with tempfile.TemporaryDirectory(prefix="sslcli-") as folder:
        files = [_as_onnx(request, source, Path(folder) / str(i)) for i, source in enumerate(sources)]
        comparison = time_models(
            files[0],
            files[1:],
            chosen,
            seed=request.settings.run.seed,
            input_shape=request.settings.model.input_shape,
            labels=labels,
            progress=lambda text: _tell(observers, f"timing {text}"),
        )
    _write_tables(chosen, comparison)
    earlier, mismatch = since(comparison, old, chosen) if old else (None, None)
    return results.BenchResult(
        rows=[_bench_row(row) for row in comparison.rows if row.layer is None],
        layers=[_bench_row(row) for row in comparison.rows if row.layer is not None],
        models=dict(zip(labels, sources, strict=True)),
        comparison=dataclasses.asdict(comparison),
        earlier=earlier,
        failure=_gate(comparison, chosen.fail_under) or mismatch,
    )


def _tell(observers: Observers, text: str) -> None:
    for observer in observers:
        observer(text)


def unique_labels(sources: Sequence[str]) -> list[str]:
    """Short names: the step's where a recipe made the file, else the file's; whole where those repeat."""
    names = [_label(Path(source)) for source in sources]
    long = [source if names.count(name) > 1 else name for name, source in zip(names, sources, strict=True)]
    return [f"{name} ({i})" if long.count(name) > 1 else name for i, name in enumerate(long)]


def _label(path: Path) -> str:
    return path.parent.name if path.stem == "model" and path.parent.name else path.name


def _as_onnx(request: Request, source: str, stem: Path) -> Path:
    if is_onnx(source):
        return Path(source)
    from sslcli.lowering import export_onnx

    chosen = request.settings
    loaded = load_model(source, chosen.model, chosen.run.seed, chosen.data)
    path = stem.with_suffix(".onnx")
    export_onnx(loaded.model, loaded.example, path)
    return path


def _bench_row(row: Any) -> results.BenchRow:
    ratio = row.ratio
    return results.BenchRow(
        name=row.subject,
        layer=row.layer,
        provider=row.provider,
        kind=row.kind,
        median_ms=row.latency.median_ms,
        p90_ms=row.latency.p90_ms,
        speedup=None if ratio is None else ratio.value,
        speedup_low=None if ratio is None else ratio.low,
        speedup_high=None if ratio is None else ratio.high,
        limit=row.limit,
    )


def _gate(comparison: Any, fail_under: float | None) -> GateError | None:
    from sslcli.bench import require_gate

    if fail_under is None:
        return None
    try:
        require_gate(comparison, fail_under)
    except GateError as error:
        return error
    return None


def _write_tables(chosen: Any, comparison: Any) -> None:
    from sslcli.bench import to_csv, to_markdown

    for name, text in ((chosen.csv, to_csv), (chosen.markdown, to_markdown)):
        if name is not None:
            with atomic_output(Path(name)) as temporary:
                temporary.write_text(text(comparison))


Job = Callable[[Request, Observers], Any]


def _signed(job: Job) -> Job:
    """The job, whose result says by which command line, seed and when it was made."""

    @functools.wraps(job)
    def run(request: Request, observers: Observers = ()) -> Any:
        return dataclasses.replace(job(request, observers), made=made(request))

    return run


JOBS: dict[str, Job] = {
    job.__name__: _signed(job) for job in (train, regularize, prune, export, inspect, evaluate, bench)
}
