"""What a run reports while it goes, and the file that keeps it."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from sslcli.files import atomic_output, output_error


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Args:
        kind: start: the run begins or continues; step: now and then within an epoch; epoch: at its end;
            control: the controller was asked for strengths; strengths: what it changed, exactly;
            end: the run is over.
        phase: train, sparse or finetune.
        epoch: epochs done (at a step: with fraction).
        step: optimiser steps done.
        epochs: epochs of the whole run.
        steps: optimiser steps of the whole run.
        loss: mean training loss of this epoch so far, without the penalty.
        penalty: R(W) at the strengths in force.
        metrics: on the validation split (at an epoch): accuracy as a fraction, loss.
        zero_groups: per structure, groups that are zero and all groups.
        left: what would be left if pruned now, as fractions of the original (macs, params).
        lr: learning rate of the last step.
        strengths: in force, by structure (or by structure and layer, where they differ).
        images_per_s: training throughput since the epoch began.
        seconds: time spent in training, over resumes.
        seconds_left: estimate, None before there is one.
        applied: of strengths: what a replay needs (see ``strengths.py``).
    """

    kind: Literal["start", "step", "epoch", "control", "strengths", "end"]
    phase: str
    epoch: float
    step: int
    epochs: int = 0
    steps: int = 0
    loss: float | None = None
    penalty: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    zero_groups: dict[str, tuple[int, int]] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    lr: float | None = None
    strengths: dict[str, float] = field(default_factory=dict)
    images_per_s: float | None = None
    seconds: float = 0.0
    seconds_left: float | None = None
    applied: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; of strengths only what a replay needs."""
        if self.kind == "strengths":
            return {"kind": self.kind, "phase": self.phase, "step": self.step, **self.applied}
        values = dataclasses.asdict(self)
        del values["applied"]
        return values


class Observer(Protocol):
    """Whoever wants to know."""

    def __call__(self, progress: Progress) -> None:
        """Take note of one record."""
        ...


class MetricsFile:
    """An observer that appends a line of JSON per record to a file (``metrics.jsonl``).

    Records within an epoch are left out, since how many there are depends on the clock. When a run
    continues, lines after the point where it continues are dropped, and so is a line cut by a kill.

    Args:
        path: the file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, progress: Progress) -> None:
        """Store one record."""
        if progress.kind == "start":
            self._rewind(progress.step)
        elif progress.kind != "step":
            self._append(progress.to_dict())

    def _rewind(self, step: int) -> None:
        kept = [line for line in self._lines() if step > 0 and _is_before(line, step)]
        if not kept:  # the first record makes the file, so that a run that fails before it leaves none
            self._remove()
            return
        with atomic_output(self.path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def _remove(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise output_error(self.path, error) from error

    def _lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []

    def _append(self, record: dict[str, Any]) -> None:
        line = (json.dumps(record) + "\n").encode()
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(descriptor, line)  # one write, so that a line is there or not
            finally:
                os.close(descriptor)
        except OSError as error:
            raise output_error(self.path, error) from error


def _is_before(line: str, step: int) -> bool:
    """Whether a run that goes on after ``step`` steps will not write this line again."""
    try:
        record = json.loads(line)
    except ValueError:
        return False
    there = record.get("step") if isinstance(record, dict) else None
    if not isinstance(there, int) or record.get("kind") == "end":
        return False
    # an epoch is told after its last step, a controller's doing before the next one
    return there < step or (there == step and record.get("kind") == "epoch")
