"""The public function: models against a base, with the options of the command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sslcli.bench.comparison import Progress, compare
from sslcli.bench.inputs import ModelSource
from sslcli.bench.results import Comparison
from sslcli.bench.statistics import require_ratio
from sslcli.errors import UsageError
from sslcli.options.bench import BenchOptions


def bench(
    base: str | ModelSource,
    others: Sequence[str | ModelSource] = (),
    options: BenchOptions | None = None,
    *,
    seed: int = 0,
    input_shape: tuple[int, ...] | None = None,
    labels: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Time ONNX models against a base, whole and layer by layer.

    The gate (``fail_under``), the earlier file (``compare``) and the files to write are left to the caller,
    so that a failed gate does not lose the numbers: ``require_gate``, ``compare_with_old``, ``to_csv``.

    Args:
        base: ONNX file or serialised model; export other models first.
        others: models made from it.
        options: as on the command line.
        seed: seed of inputs, orders and resampling.
        input_shape: input without the batch axis, where the model leaves it open.
        labels: how rows name the models, all different; default: their file names.
        progress: called with a line before each part.

    Raises:
        DeviceError: a provider is missing or did not run every node.
        ModelError: a model cannot be read or run.
        InputError: a model does not take the batch size.
        UsageError: no layer matches, or a gate without a model to hold against it.
    """
    chosen = options or BenchOptions.model_validate({})
    if chosen.fail_under is not None and not others:
        raise UsageError(
            "--fail-under needs a second model", "name the base first, then what to hold against it"
        )
    return compare(
        _source(base),
        [_source(other) for other in others],
        providers=chosen.providers,
        threads=chosen.threads,
        batch_size=chosen.batch_size,
        budget_s=chosen.budget,
        warmup=chosen.warmup,
        seed=seed,
        layers=chosen.layers,
        unstructured=chosen.unstructured,
        tf32=chosen.tf32,
        input_shape=input_shape,
        labels=labels,
        progress=progress,
    )


def require_gate(comparison: Comparison, fail_under: float) -> None:
    """Raise GateError if a whole model's speedup lies below ``fail_under``, its interval included."""
    for row in comparison.rows:
        if row.layer is None and row.ratio is not None:
            require_ratio(row.ratio, fail_under, f"{row.subject} on {row.provider}")


def _source(model: str | ModelSource) -> ModelSource:
    return Path(model) if isinstance(model, str) else model
