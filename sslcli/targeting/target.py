"""What may be left and what may be lost, and whether a run met it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sslcli.errors import TargetError
from sslcli.targeting.result import TrainResult
from sslcli.training.failure import DivergedError, SpoiledError

_ROUNDING = 1e-9
_REPEATED = 0.03  # relative; by how much two measurements of one latency may differ


@dataclass(frozen=True)
class Target:
    """Fractions that may be left, and points of the metric that may be lost.

    Args:
        left: macs, macs_packed, params, latency -> fraction of the original.
        max_drop: points (hundredths of the metric) that may be lost; None: any.
        baseline: the metric before training.
        metric: the metric's name.
    """

    left: Mapping[str, float]
    max_drop: float | None
    baseline: float
    metric: str = "accuracy"

    def drop(self, metrics: Mapping[str, float]) -> float:
        """Points lost against the baseline; negative where the metric rose."""
        return 100 * (self.baseline - metrics[self.metric])

    def misses(self, left: Mapping[str, float], metrics: Mapping[str, float]) -> list[str]:
        """What was not met, in words with figures; empty where all was."""
        missed = [
            f"{name} is {left[name]:.4f} and may be {limit:g}"
            for name, limit in self.left.items()
            if left[name] > limit * (1 + (_REPEATED if name == "latency" else 0)) + _ROUNDING
        ]
        if self.max_drop is not None and self.drop(metrics) > self.max_drop + _ROUNDING:
            missed.append(
                f"{self.metric} dropped by {self.drop(metrics):.2f} points and may by {self.max_drop:g}"
            )
        return missed


class TargetMissedError(TargetError):
    """A run that did not meet its target, or did not come to its end.

    Args:
        missed: what was not met, in words.
        nearest: the model that came nearest.
        spoiled: what ended the run before its time.

    Attributes:
        remedy: what to do against a divergence; None where there was none.
    """

    def __init__(self, missed: list[str], nearest: TrainResult, spoiled: SpoiledError | None = None) -> None:
        self.nearest = nearest
        self.remedy = spoiled.hint if isinstance(spoiled, DivergedError) else None
        what, parts = "the target was not met" if missed else "training did not come to its end", list(missed)
        if spoiled is not None:
            epoch = nearest.fit.kept_epoch
            kept = f"of epoch {epoch}" if epoch else "before training"
            parts.append(f"{spoiled.event}, so the weights {kept} are kept")
        super().__init__(
            f"{what}: {'; '.join(parts)}",
            self.remedy or "train for more --epochs, ask for less, or allow a larger --max-drop",
        )
