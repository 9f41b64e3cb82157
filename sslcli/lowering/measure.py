"""Times the candidates of one layer against its dense form, in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx

from sslcli.bench import time_models
from sslcli.bench.inputs import RunSettings
from sslcli.bench.statistics import paired_ratio
from sslcli.lowering.timings import Timed

DENSE = "dense"
_FINALISTS = 3
_HEAT_SHARE = 0.4


def measure(models: Mapping[str, onnx.ModelProto], settings: RunSettings) -> dict[str, Timed]:
    """Time models that compute the same; the one called ``dense`` is the base.

    Two rounds: a short one over all, and one for the rest of the budget over the base and the three
    fastest, whose figures replace those of the first.

    Raises:
        DeviceError: the provider is missing or did not run every node.
        ModelError: a model cannot be opened or run.
    """
    heat = replace(settings, budget_s=settings.budget_s * _HEAT_SHARE, warmup=1, rounds=1, min_blocks=2)
    found = _round(models, heat)
    others = sorted((name for name in found if name != DENSE), key=lambda name: found[name].median_ms)
    if len(others) > _FINALISTS:
        others = others[:_FINALISTS]
    final = replace(settings, budget_s=settings.budget_s * (1 - _HEAT_SHARE), min_blocks=8)
    return {**found, **_round({name: models[name] for name in (DENSE, *others)}, final)}


def _round(models: Mapping[str, onnx.ModelProto], settings: RunSettings) -> dict[str, Timed]:
    names = [DENSE, *(name for name in models if name != DENSE)]
    timings = time_models([models[name].SerializeToString() for name in names], settings)
    base = timings[0].samples.ns
    found = {}
    for name, timing in zip(names, timings, strict=True):
        ratio = paired_ratio(base, timing.samples.ns)
        median_ms = float(np.median(timing.samples.ns)) / 1e6
        found[name] = Timed(median_ms, ratio.value, ratio.low, ratio.high)
    return found


def best(timings: Mapping[str, Timed]) -> str:
    """The fastest by speedup among those whose interval lies above 1, else ``dense``."""
    sure = {name: timed.speedup for name, timed in timings.items() if name != DENSE and timed.low > 1.0}
    return max(sure, key=lambda name: sure[name], default=DENSE)
