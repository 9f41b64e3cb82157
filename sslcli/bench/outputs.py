"""How far the outputs of models are apart, and what a reader is told of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sslcli.bench.inputs import Array, ModelSource, RunSettings
from sslcli.bench.results import BenchedModel
from sslcli.bench.sessions import bind

# Above what rounding explains in float32; half precision and a fine-tuned model lie above it.
_TOLD_ABOVE = 1e-3


def differences(models: Sequence[ModelSource], settings: RunSettings) -> list[float | None]:
    """How far the outputs of each model are from those of the first, without TF32."""
    base = _outputs(models[0], settings)
    return [relative_difference(base, _outputs(model, settings)) for model in models[1:]]


def relative_difference(base: Sequence[Array], other: Sequence[Array]) -> float | None:
    """Largest |other - base| / largest finite |base| over all outputs.

    What is NaN at the same place in both, or the same infinity, is equal.

    Returns:
        Infinity where a number stands against NaN or infinity; None where the number of outputs or their
        shapes differ.
    """
    if [one.shape for one in base] != [two.shape for two in other]:
        return None
    return max((_apart(one, two) for one, two in zip(base, other, strict=True)), default=0.0)


def largest(found: Sequence[float | None]) -> float | None:
    """The largest of several differences of the same models; None if one is."""
    known = [value for value in found if value is not None]
    return max(known) if len(known) == len(found) else None


def set_apart(model: BenchedModel, difference: float | None) -> BenchedModel:
    """``model`` with what ``relative_difference`` said of it; JSON has no infinity but a word for it."""
    if difference is None:
        return replace(model, incomparable="other shapes")
    if math.isinf(difference):
        return replace(model, incomparable="not finite")
    return replace(model, difference=difference)


def output_notes(models: Sequence[BenchedModel]) -> list[str]:
    """A sentence for each model whose outputs are not those of the first."""
    return [note for model in models[1:] if (note := _note(models[0].label, model)) is not None]


def _note(base: str, model: BenchedModel) -> str | None:
    unlike = f"outputs of {model.label} cannot be compared with those of {base}"
    if model.incomparable == "other shapes":
        return f"{unlike}: their number or their shapes differ"
    if model.incomparable == "not finite":
        return f"{unlike}: one holds NaN or infinity where the other holds a number"
    if model.difference is None or model.difference <= _TOLD_ABOVE:
        return None
    return (
        f"outputs of {model.label} differ from those of {base} by up to {_per_cent(model.difference)} of the "
        "largest: another function, training or precision; accuracy is not compared here"
    )


def _per_cent(fraction: float) -> str:
    return f"{100 * fraction:,.0f} %" if fraction >= 0.1 else f"{100 * fraction:.2g} %"


def _apart(base: Array, other: Array) -> float:
    one, two = base.astype(np.float64), other.astype(np.float64)
    numbers = np.isfinite(one) & np.isfinite(two)
    if not (numbers | (one == two) | (np.isnan(one) & np.isnan(two))).all():
        return math.inf
    one, two = one[numbers], two[numbers]
    scale = float(np.abs(one).max(initial=0.0)) or 1.0
    with np.errstate(over="ignore"):  # only float64 can: what it cannot hold is infinitely far
        return float(np.abs(two - one).max(initial=0.0) / scale)


def _outputs(model: ModelSource, settings: RunSettings) -> list[Array]:
    """Outputs on the inputs of ``settings.seed``, without TF32."""
    bound = bind(model, replace(settings, tf32=False))
    bound.run()
    return bound.outputs()
