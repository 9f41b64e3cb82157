"""What jobs return: plain numbers and names, ready to be printed or written as JSON.

Units stand in the names; MACs are multiply-accumulates (FLOP = 2 MAC); accuracies are fractions; errors in
tables are per cent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sslcli.errors import SslcliError


@dataclass(frozen=True)
class Made:
    """How a result came about, as a reader needs it to repeat the work.

    Attributes:
        command: the command line that does the same.
        options: those of it that are not at their defaults, by name.
        seed: of every random choice.
        created: when the work was done, in UTC, as ISO 8601 writes it.
    """

    command: str
    options: dict[str, Any]
    seed: int
    created: str


@dataclass(frozen=True)
class Layer:
    """One layer with weights, as it stands: what is live, convolution groups added up.

    Attributes:
        name: the layer.
        kind: conv, conv_transpose or linear.
        shape: the weight's.
        filters: rows with an element that is not zero.
        channels: input channels, likewise.
        columns: columns (c, kh, kw), likewise.
        macs: multiply-accumulates of one sample as executed.
        macs_packed: live rows x live columns only.
    """

    name: str
    kind: str
    shape: list[int]
    filters: int
    channels: int
    columns: int
    macs: int
    macs_packed: int


@dataclass(frozen=True)
class Shape:
    """What a model consists of."""

    layers: list[Layer]
    macs: int
    macs_packed: int
    params: int


@dataclass(frozen=True)
class TrainingResult:
    """``train`` and ``regularize``.

    Attributes:
        before: on the validation split, of the model that was given.
        metrics: by split, of the model that was written; accuracy is a fraction.
        output: the model that was written; of a missed target the nearest one, ``OUT.nearest.pt2``.
        zero_groups: per structure, groups that are zero and all groups.
        left: what would be left if pruned now, as fractions.
        reached: of a targeted run, what is left (fractions) and what was lost (drop, points of the metric).
        target: what may be left and lost, by the names of ``reached``.
        history: one record an epoch.
        course: the file that holds those records and more, beside the output.
    """

    command: str
    source: str
    output: str
    data: dict[str, Any]
    epochs: int
    steps: int
    seconds: float
    before: dict[str, float]
    metrics: dict[str, dict[str, float]]
    zero_groups: dict[str, list[int]] = field(default_factory=dict)
    strengths: dict[str, float] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    reached: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    course: str | None = None
    shape: Shape | None = None
    target: dict[str, float] = field(default_factory=dict)
    failure: SslcliError | None = None
    made: Made | None = None


@dataclass(frozen=True)
class PruneResult:
    """``prune``: counts before and after; errors of masked against shrunk, of written against reloaded.

    Attributes:
        output: the model that was written; of a target out of reach the nearest one, ``OUT.nearest.pt2``.
        plan: the file beside it; None beside a nearest model.
        target: what may be left, as fractions.
        reached: what is left, by the same names.
    """

    source: str
    output: str
    plan: str | None
    macs_before: int
    macs_after: int
    macs_packed: int
    params_before: int
    params_after: int
    size_bytes: int
    max_abs_error: float
    max_rel_error: float
    reloaded_abs_error: float
    layers: list[dict[str, Any]]
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    shape: Shape | None = None
    target: dict[str, float] = field(default_factory=dict)
    reached: dict[str, float] = field(default_factory=dict)
    failure: SslcliError | None = None
    made: Made | None = None


@dataclass(frozen=True)
class ExportResult:
    """``export``.

    Attributes:
        max_abs_error: of the written model against the given one, on fresh inputs.
        layers: what was chosen for each layer with structured zeros, and all that was timed.
        speedup: of the whole model over its dense form (value, low, high), where it was timed.
        explain: whether the timings are to be printed.
    """

    source: str
    output: str
    size_bytes: int
    lowering: str
    max_abs_error: float
    max_rel_error: float
    layers: list[dict[str, Any]] = field(default_factory=list)
    speedup: dict[str, float] | None = None
    explain: bool = False
    shape: Shape | None = None
    made: Made | None = None


@dataclass(frozen=True)
class BenchRow:
    """One model, whole or one of its layers; the speedup is over the first model, with its 95 % interval.

    Attributes:
        name: the step's or the file's.
        layer: the layer, None for the whole model.
        kind: ``onnx``, or ``csr`` for the same sparsity without structure.
        limit: what arithmetic alone would give.
    """

    name: str
    layer: str | None
    provider: str
    kind: str
    median_ms: float
    p90_ms: float
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    limit: float | None


@dataclass(frozen=True)
class BenchChange:
    """One row beside the same row of an earlier bench.

    Attributes:
        name: the step's or the file's.
        layer: the layer, None for the whole model.
        kind: ``onnx``, or ``csr`` for the same sparsity without structure.
        old_ms: median then.
        times_faster: than then, with its 95 % interval; the machine's own drift is in it.
        speedup: over the base now; None for the base. It is free of that drift.
        old_speedup: over the base then.
    """

    name: str
    layer: str | None
    provider: str
    kind: str
    median_ms: float
    old_ms: float
    times_faster: float
    times_faster_low: float
    times_faster_high: float
    speedup: float | None
    old_speedup: float | None


@dataclass(frozen=True)
class Earlier:
    """What ``--compare`` found: the file, its rows beside the new ones, and what differs around them."""

    path: str
    created: str
    changes: list[BenchChange]
    notes: list[str]


@dataclass(frozen=True)
class BenchResult:
    """``bench``: ``comparison`` is the bench package's own record, raw samples included.

    Attributes:
        rows: whole models, the base first.
        layers: layer by layer.
        models: short name -> file.
        earlier: the earlier bench of ``--compare`` and what changed since.
    """

    rows: list[BenchRow]
    layers: list[BenchRow]
    models: dict[str, str]
    comparison: dict[str, Any]
    earlier: Earlier | None = None
    failure: SslcliError | None = None
    made: Made | None = None


@dataclass(frozen=True)
class InspectResult:
    """``inspect``.

    Attributes:
        layers: per layer its shape, what is live of what there is, MACs, and why it is left whole.
        details: what pruning now would ``leave``; the ``groups`` where asked for, with how many are
            zero and the root mean squares of the others at each tenth, ascending; ``unknown`` ops, whose
            operands stay whole; ``notes``; the ``record`` that the file carries.
    """

    source: str
    macs: int
    macs_packed: int
    params: int
    layers: list[dict[str, Any]]
    details: dict[str, Any] = field(default_factory=dict)
    made: Made | None = None


@dataclass(frozen=True)
class EvaluateResult:
    """``evaluate``."""

    source: str
    data: str
    split: str
    samples: int
    metrics: dict[str, float]
    seconds: float
    made: Made | None = None

    @property
    def accuracy(self) -> float | None:
        """The fraction of samples that are right, where the task has classes."""
        return self.metrics.get("accuracy")


@dataclass(frozen=True)
class ApplyPlanResult:
    """``apply-plan``."""

    plan: str
    arch: str
    output: str
    params: int
    max_abs_error: float | None = None
    fresh_weights: bool = False


@dataclass(frozen=True)
class Planned:
    """``--dry-run`` of one command: what would be done."""

    command: str
    source: str
    output: str | None
    replaces: bool
    options: dict[str, Any]


@dataclass(frozen=True)
class StepOutcome:
    """One step of a recipe: ``state`` is run, cached, pending (dry run) or failed."""

    id: str
    uses: str
    needs: list[str]
    state: str
    seconds: float
    outputs: list[str]
    reason: str = ""
    result: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelRow:
    """One model of the closing table.

    Attributes:
        error: fraction of the test set that is wrong, or None where nothing says it.
        metric: what another task than classification measures on the test set, by name.
        latency_ms: median of the whole model, where it was timed.
        speedup: over the first model timed, with its interval.
        onnx: the step that wrote the model as ONNX; the one that was timed, where there are several.
        onnx_bytes: the size of that file.
        tested: the step whose file the test figures are of, where that is not the model itself.
    """

    id: str
    error: float | None
    layers: list[dict[str, Any]]
    macs: int
    macs_packed: int
    params: int
    size_bytes: int
    latency_ms: float | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    metric: dict[str, float] = field(default_factory=dict)
    onnx: str | None = None
    onnx_bytes: int | None = None
    tested: str | None = None


@dataclass(frozen=True)
class RunResult:
    """``run``."""

    recipe: str
    folder: str
    dry_run: bool
    seconds: float
    steps: list[StepOutcome]
    models: list[ModelRow] = field(default_factory=list)
    report: str | None = None
    failure: SslcliError | None = None
    made: Made | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that ``doctor`` looked at: ``state`` is ok, notice or missing."""

    name: str
    state: str
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """``doctor``."""

    findings: list[Finding]
    failure: SslcliError | None = None


@dataclass(frozen=True)
class RecipeText:
    """``recipe init``, ``explain`` and ``validate``: a recipe's text, or words about it.

    Attributes:
        problems: all that is wrong with it, in the order of the lines; the last is the ``failure``.
    """

    recipe: str
    text: str
    problems: list[SslcliError] = field(default_factory=list)
    failure: SslcliError | None = None
