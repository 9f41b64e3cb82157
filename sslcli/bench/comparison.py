"""A base model against others: whole and layer by layer, on each provider."""

from __future__ import annotations

import datetime
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from sslcli.bench.graphs import ShapedGraph, shaped_graph
from sslcli.bench.host import others_load, read_load, this_host
from sslcli.bench.inputs import ModelSource, RunSettings, read_inputs, read_proto
from sslcli.bench.layers import LayerPairs, match_layers
from sslcli.bench.outputs import differences, largest, output_notes, set_apart
from sslcli.bench.results import BenchedModel, Comparison, Protocol
from sslcli.bench.rows import ROUNDS, Contest, layer_contests, whole_models
from sslcli.bench.sessions import require_ready
from sslcli.bench.unstructured import require_torch_device
from sslcli.errors import InputError
from sslcli.options.common import Provider

_WHOLE_SHARE = 0.4
_BUSY = 0.1
Progress = Callable[[str], None]


def compare(
    base: ModelSource,
    others: Sequence[ModelSource],
    *,
    providers: Sequence[Provider] = ("cpu",),
    threads: int = 1,
    batch_size: int | None = None,
    budget_s: float = 10.0,
    warmup: int = 3,
    seed: int = 0,
    layers: str | None = "*",
    unstructured: bool = False,
    tf32: bool = True,
    input_shape: tuple[int, ...] | None = None,
    labels: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Time ``base`` and ``others`` against each other.

    Args:
        base: ONNX file or serialised model that the ratios refer to.
        others: models made from it.
        providers: where to run; each gives rows of its own.
        threads: intra-op threads.
        batch_size: size of the batch axis; None: the base's fixed one, else 1.
        budget_s: seconds of measurement in all, divided among providers, whole models and layers.
        warmup: untimed runs of each subject.
        seed: seed of inputs, orders and resampling.
        layers: name or glob of layers; None: whole models only.
        unstructured: also time each convolution of the others' sparsity as CSR.
        tf32: whether CUDA may use TF32 in timed runs; the outputs are compared without it.
        input_shape: input without the batch axis, where the model leaves it open.
        labels: how rows name the models, all different; default: their file names.
        progress: called with a line before each round.

    Raises:
        DeviceError: a provider is missing or did not run every node.
        ModelError: a model cannot be read or run.
        InputError: a model does not take the batch size, or other inputs than the base.
        UsageError: no layer matches ``layers``.
    """
    models = [base, *others]
    labels = label_models(models) if labels is None else labels
    if unstructured:
        for provider in providers:
            require_torch_device(provider)
    for provider in providers:
        require_ready(provider)
    say = progress or _silent
    general = RunSettings(
        threads=threads,
        batch_size=own_batch_size(base) if batch_size is None else batch_size,
        budget_s=budget_s / len(providers),
        warmup=warmup,
        seed=seed,
        tf32=tf32,
        input_shape=input_shape,
    )
    graphs = [shaped_graph(model, general) for model in models]
    _require_same_inputs(graphs, labels)
    pairs, notes = ([], []) if layers is None else match_layers(graphs[0], graphs[1:], layers)
    share = _WHOLE_SHARE if pairs else 1.0
    before = read_load()
    contests: list[Contest] = []
    for provider in providers:
        settings = replace(general, provider=provider, budget_s=general.budget_s * share)
        contests.append(whole_models(models, graphs, labels, settings))
        settings = replace(settings, budget_s=general.budget_s * (1 - share) / max(1, len(pairs)))
        for pair in pairs:
            contests += layer_contests(pair, graphs, labels, settings, unstructured=unstructured)
    for number in range(ROUNDS):  # outermost, so that a slow half minute of the machine meets no layer alone
        part = f"round {number + 1} of {ROUNDS}"
        say(f"whole models{_and_layers(len(pairs))} on {' and '.join(providers)}, {part}")
        for contest in contests:
            contest.run(number)
    apart = [differences(models, replace(general, provider=provider)) for provider in providers]
    benched = [_benched(label, model) for label, model in zip(labels, models, strict=True)]
    benched[1:] = [
        set_apart(model, largest(found)) for model, *found in zip(benched[1:], *apart, strict=True)
    ]
    host = this_host(providers)
    load = others_load(before, read_load(), host.cpus)
    return Comparison(
        host=host,
        protocol=Protocol(budget_s, warmup, seed, tf32, load),
        models=tuple(benched),
        rows=tuple(row for contest in contests for row in contest.rows()),
        notes=(*output_notes(benched), *notes, *_gone(pairs, labels[1:]), *_busy(load)),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def label_models(models: Sequence[ModelSource]) -> list[str]:
    """Short names for models: file names, whole paths where those repeat, numbers for serialised models."""
    names = [model.name if isinstance(model, Path) else f"model {i}" for i, model in enumerate(models)]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    long = [str(model) if name in repeated else name for name, model in zip(names, models, strict=True)]
    again = {name for name, count in Counter(long).items() if count > 1}
    return [f"{name} ({i})" if name in again else name for i, name in enumerate(long)]


def _require_same_inputs(graphs: Sequence[ShapedGraph], labels: Sequence[str]) -> None:
    """Times of models that take different inputs say nothing about each other."""
    taken = [_input_sizes(graph) for graph in graphs]
    for sizes, label in zip(taken[1:], labels[1:], strict=True):
        if sizes != taken[0]:
            raise InputError(
                f"{labels[0]} takes inputs of {_sizes(taken[0])}, {label} of {_sizes(sizes)}",
                "compare models that do the same work",
            )


def _input_sizes(graph: ShapedGraph) -> list[tuple[int, ...]]:
    """The shapes of the inputs without the batch axis, whatever their names and order."""
    shapes = (item.type.tensor_type.shape.dim[1:] for item in read_inputs(graph.proto))
    return sorted(tuple(dim.dim_value for dim in dims) for dims in shapes)


def _sizes(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join("x".join(map(str, shape)) or "one number" for shape in shapes) or "nothing"


def own_batch_size(model: ModelSource) -> int:
    """The fixed batch size of a model's first input, 1 where it is open."""
    inputs = read_inputs(read_proto(model))
    dims = inputs[0].type.tensor_type.shape.dim if inputs else []
    return dims[0].dim_value if dims and dims[0].HasField("dim_value") else 1


def _gone(pairs: Sequence[LayerPairs], labels: Sequence[str]) -> list[str]:
    return [
        f"{pair.base.name} is gone from {label}"
        for pair in pairs
        for label, layer in zip(labels, pair.others, strict=True)
        if layer is None
    ]


def _busy(load: float | None) -> list[str]:
    if load is None or load < _BUSY:
        return []
    return [f"other processes used {load:.0%} of the processors meanwhile, so times are less sure"]


def _benched(label: str, model: ModelSource) -> BenchedModel:
    if isinstance(model, bytes):
        return BenchedModel(label, len(model), hashlib.sha256(model).hexdigest())
    with model.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return BenchedModel(label, sum(file.stat().st_size for file in _files(model)), digest)


def _files(model: Path) -> set[Path]:
    """The model's file and those that hold its weights."""
    places = {
        entry.value
        for tensor in read_proto(model).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return {model, *(model.parent / place for place in places)}


def _and_layers(count: int) -> str:
    return "" if not count else " and 1 layer" if count == 1 else f" and {count} layers"


def _silent(_: str) -> None:
    """Say nothing."""
