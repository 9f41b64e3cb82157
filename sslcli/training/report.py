"""Turns the state of a run into records for its observers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from sslcli.sparsity.penalty import WeightedSet
from sslcli.training.course import Course
from sslcli.training.progress import Observer, Progress

_EVERY_S = 1.0  # between records within an epoch


class Reporter:
    """Tells observers where a run stands.

    Args:
        observers: whom to tell; nobody on processes that do not write.
        course: of the run.
        batch_size: samples per step over all processes.
    """

    def __init__(self, observers: Sequence[Observer], course: Course, batch_size: int) -> None:
        self.observers, self.course, self.batch_size = observers, course, batch_size
        self.seconds_before = 0.0
        self._start = self._last = self._epoch_start = time.monotonic()
        self._start_step = self._epoch_step = 0

    def start(self, step: int, seconds_before: float) -> None:
        """The run begins, or continues, with ``step`` steps done."""
        self.seconds_before = seconds_before
        self._start = self._last = self._epoch_start = time.monotonic()
        self._start_step = self._epoch_step = step

    @property
    def seconds(self) -> float:
        """Time spent in training, over resumes."""
        return self.seconds_before + time.monotonic() - self._start

    def due(self) -> bool:
        """Whether it is time for a record within an epoch."""
        return bool(self.observers) and time.monotonic() - self._last >= _EVERY_S

    def tell(self, progress: Progress) -> Progress:
        """Fill in lengths and times, and hand the record to every observer."""
        now = time.monotonic()
        done = progress.step - self._start_step
        in_epoch = (progress.step - self._epoch_step) * self.batch_size
        record = replace(
            progress,
            epochs=self.course.epochs,
            steps=self.course.steps,
            images_per_s=in_epoch / (now - self._epoch_start) if in_epoch else None,
            seconds=self.seconds,
            seconds_left=(now - self._start) / done * (self.course.steps - progress.step) if done else None,
        )
        for observer in self.observers:
            observer(record)
        self._last = time.monotonic()
        if progress.kind == "epoch":
            self._epoch_start, self._epoch_step = self._last, progress.step
        return record


def strengths_by_name(penalties: Sequence[WeightedSet], factor: float = 1.0) -> dict[str, float]:
    """Strengths by structure, and by structure and layer where a structure has several."""
    by_structure: dict[str, dict[str, float]] = {}
    for weighted in penalties:
        layers = by_structure.setdefault(weighted.group_set.structure, {})
        layers[weighted.group_set.label] = weighted.strength * factor
    named: dict[str, float] = {}
    for structure, layers in by_structure.items():
        if len(set(layers.values())) == 1:
            named[structure] = next(iter(layers.values()))
        else:
            named |= {f"{structure}:{label}": strength for label, strength in layers.items()}
    return named
