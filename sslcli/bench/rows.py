"""Timed subjects -> rows of a comparison."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sslcli.bench.columns import ConvGeometry, conv_geometry
from sslcli.bench.graphs import ShapedGraph, fixed_batch, macs
from sslcli.bench.inputs import ModelSource, RunSettings
from sslcli.bench.layers import Layer, LayerPairs
from sslcli.bench.results import Kind, Row
from sslcli.bench.runner import Heat, Maker, Subject, Timing, sample_clock, session_subject
from sslcli.bench.statistics import Ratio, paired_ratio, summarise
from sslcli.bench.unstructured import CsrConvolution, live_weights, random_weight, torch_threads

# Workers of OpenMP spin for 300,000 pauses after their work, which is 15 ms on recent processors.
_OPENMP_SETTLE_S = 0.025
# With fewer, intervals of equal models held 1 too seldom.
ROUNDS = 4


@dataclass(frozen=True)
class Entrant:
    """A subject that can be opened, and what its row says beside the times."""

    maker: Maker
    label: str
    kind: Kind
    macs: int | None


class Contest:
    """Entrants that are timed in turn, the first of them the base of the ratios.

    Args:
        entrants: what is timed.
        settings: with the budget of all rounds together.
        layer: whose rows they are; None: whole models.
        aside: whether the base's row is told by another contest.
    """

    def __init__(
        self,
        entrants: Sequence[Entrant],
        settings: RunSettings,
        layer: Layer | None = None,
        *,
        aside: bool = False,
    ) -> None:
        self._entrants, self._layer, self._aside = entrants, layer, aside
        self._settings = replace(settings, rounds=ROUNDS)
        self._heat = Heat([entrant.maker for entrant in entrants], self._settings)

    def run(self, number: int) -> None:
        """Time round ``number``, from 0 to ROUNDS - 1."""
        with torch_threads(self._settings.threads) if self._aside else contextlib.nullcontext():
            self._heat.run(number)

    def rows(self) -> list[Row]:
        """What was measured."""
        settings, layer, taken = self._settings, self._layer, self._heat.timings()
        base = self._entrants[0]
        rows = [
            Row(
                provider=settings.provider,
                threads=settings.threads,
                batch_size=settings.batch_size or 1,
                layer=layer.name if layer else None,
                op_type=layer.op_type if layer else None,
                subject=entrant.label,
                kind=entrant.kind,
                macs=entrant.macs,
                limit=base.macs / entrant.macs if base.macs and entrant.macs else None,
                latency=summarise(timing.samples.ns, settings.batch_size or 1),
                ratio=None if entrant is base else _speedup(taken[0], timing, settings),
                nodes=timing.nodes,
                clock=sample_clock(settings),
                runs_per_sample=timing.samples.runs_per_sample,
                rounds=timing.samples.rounds,
                samples_ns=tuple(
                    tuple(round(value) for value in block) for block in timing.samples.ns.tolist()
                ),
            )
            for entrant, timing in zip(self._entrants, taken, strict=True)
        ]
        return rows[1:] if self._aside else rows


def whole_models(
    models: Sequence[ModelSource],
    graphs: Sequence[ShapedGraph],
    labels: Sequence[str],
    settings: RunSettings,
) -> Contest:
    """The contest of whole models, the base first."""
    entrants = [
        _entrant(model, label, macs(graph, graph.nodes), settings)
        for model, label, graph in zip(models, labels, graphs, strict=True)
    ]
    return Contest(entrants, settings)


def layer_contests(
    pair: LayerPairs,
    graphs: Sequence[ShapedGraph],
    labels: Sequence[str],
    settings: RunSettings,
    *,
    unstructured: bool,
) -> list[Contest]:
    """One layer of all models, and its CSR forms, with ``settings.budget_s`` for all together."""
    alone = fixed_batch(settings)
    found = [
        (label, layer, graph)
        for label, layer, graph in zip(labels, (pair.base, *pair.others), graphs, strict=True)
        if layer is not None
    ]
    entrants = [_entrant(layer.model, label, layer.macs, alone) for label, layer, _ in found]
    geometry = conv_geometry(graphs[0], pair.base.nodes[0]) if unstructured else None
    if geometry is None or len(found) == 1:
        return [Contest(entrants, settings, pair.base)]
    # Apart, since CSR takes long and its OpenMP workers spin on; the base is timed with both.
    half = replace(settings, budget_s=settings.budget_s / 2)
    csr = [
        entrant
        for label, layer, graph in found[1:]
        for entrant in _csr_entrants(label, layer, graph, geometry, settings)
    ]
    return [
        Contest(entrants, half, pair.base),
        Contest([entrants[0], *csr], half, pair.base, aside=True),
    ]


def _entrant(model: ModelSource, label: str, count: int | None, settings: RunSettings) -> Entrant:
    return Entrant(functools.partial(session_subject, model, settings), label, "onnx", count)


def _speedup(base: Timing, other: Timing, settings: RunSettings) -> Ratio:
    samples = base.samples
    return paired_ratio(samples.ns, other.samples.ns, seed=settings.seed, rounds=samples.rounds)


def _csr_entrants(
    label: str, layer: Layer, graph: ShapedGraph, geometry: ConvGeometry, settings: RunSettings
) -> list[Entrant]:
    """The base's convolution with as many non-zero weights as ``layer`` has, at random places."""
    live = live_weights(graph, layer.nodes)
    settle_s = _OPENMP_SETTLE_S if settings.provider == "cpu" and settings.threads > 1 else 0.0
    count = min(live, int(np.prod(geometry.weight))) * geometry.image[0] * int(np.prod(geometry.out))

    def convolution() -> CsrConvolution:
        weight = random_weight(geometry.weight, live, geometry.groups, settings.seed)
        image = np.random.default_rng(settings.seed).standard_normal(geometry.image, dtype=np.float32)
        return CsrConvolution(weight, image, geometry, settings.provider)

    def with_lowering() -> Subject:
        return Subject(convolution().run, settle_s)

    def product_alone() -> Subject:
        csr = convolution()
        csr.run()  # writes the columns
        return Subject(csr.multiply, settle_s)

    return [
        Entrant(with_lowering, label, "csr", count),
        Entrant(product_alone, label, "csr product", count),
    ]
