"""When a run's state is kept, found again and left to continue."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from sslcli.errors import InputError, Interrupted
from sslcli.options.training import NEUTRAL, TrainOptions
from sslcli.training.run import Run
from sslcli.training.signals import Requests
from sslcli.training.state import RunState, read_state, write_state


class Keeper:
    """Keeps the state of one run in one file.

    Args:
        path: the file, or None to keep nothing.
        options: when to save, whether to resume.
        identity: what the run is of, by name.
    """

    def __init__(self, path: Path | None, options: TrainOptions, identity: Mapping[str, str]) -> None:
        self.path, self.options, self.identity = path, options, dict(identity)
        self._saved = time.monotonic()

    def find(self) -> RunState | None:
        """The state to continue from, or None to begin.

        Raises:
            InputError: there is none and ``resume`` is must, or it cannot be read.
            UsageError: it is of another run.
        """
        there = self.path is not None and self.path.exists()
        if self.options.resume == "must" and not there:
            raise InputError(f"there is no state to continue from at {self.path}", "start with --resume auto")
        if self.path is None or not there or self.options.resume == "never":
            return None
        return read_state(self.path, self.identity)

    def after_step(self, run: Run, asked: Requests) -> None:
        """Save where it is time or was asked for; stop where that was asked for.

        Raises:
            Interrupted: a signal asked to stop; the state is kept.
        """
        stop, save = run.world.any(asked.stop is not None, asked.save)
        if stop or save or self._due(run):
            self.save(run)
            asked.save = False
        if stop:
            raise self._interrupted(run, asked)

    def after_course(self, run: Run, asked: Requests) -> None:
        """Stop where that was asked for after the last step, whose state has been saved.

        Raises:
            Interrupted: a signal asked to stop; the state is kept.
        """
        (stop,) = run.world.any(asked.stop is not None)
        if stop:
            raise self._interrupted(run, asked)

    def save(self, run: Run) -> None:
        """Write the state as it is now."""
        if self.path is not None and run.world.writes:
            write_state(self.path, run.state(self.identity))
        self._saved = time.monotonic()

    def _interrupted(self, run: Run, asked: Requests) -> Interrupted:
        name, asked.stop = asked.stop or "a signal", None
        return Interrupted(
            f"stopped by {name} after step {run.step} of {run.course.steps}",
            "run the same command again to go on from there"
            if self.path is not None
            else "no state was kept",
        )

    def _due(self, run: Run) -> bool:
        every = self.options.save_every_steps
        return (
            run.epoch_ended
            or (every is not None and run.step % every == 0)
            or time.monotonic() - self._saved >= self.options.save_every_s
        )


def options_identity(options: TrainOptions) -> dict[str, str]:
    """The options that a continuation must share, as texts."""
    values = options.model_dump(mode="json", exclude=set(NEUTRAL))
    return {name: str(value) for name, value in values.items()}
