"""The strengths of an earlier run, applied as they were: nothing is measured and nothing chosen."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sslcli.errors import InputError, UsageError
from sslcli.files import read_bounded
from sslcli.reference import describe
from sslcli.sparsity.penalty import WeightedSet
from sslcli.training.control import Signs
from sslcli.training.strengths import described, groups_of, shares_of

_MAX_BYTES = 1 << 30

Change = tuple[float, Tensor | None]  # strength and shares of one set


@dataclass(frozen=True)
class Course:
    """What a controller did in a run.

    Attributes:
        every: steps between its adjustments.
        changes: step -> number of a set -> what it became.
        choices: step -> the groups (bool) of each set that went for good then: where the fine-tuning began,
            and where some were lacking later.
    """

    every: int
    changes: Mapping[int, Mapping[int, Change]]
    choices: Mapping[int, Sequence[Tensor]]


class Replay:
    """A controller that does what another did.

    Args:
        weighted: the sets that it moved.
        course: what it did.
        settle: told, as there, of the groups that go for good.
    """

    def __init__(
        self,
        weighted: Sequence[WeightedSet],
        course: Course,
        settle: Callable[[Mapping[str, Tensor], Sequence[Tensor]], None] = lambda parameters, gone: None,
    ) -> None:
        self.weighted, self.course, self.settle = list(weighted), course, settle
        self.every = self.look_every = course.every
        self._penalties = [replace(entry, strength=0.0) for entry in weighted]
        self._step = -1

    def look(self, parameters: Mapping[str, Tensor]) -> None:
        """Nothing has to be known."""

    def adjust(self, signs: Signs) -> Sequence[WeightedSet]:
        """The penalty as it became at this step."""
        self._apply(signs.step)
        return self.penalties()

    def penalties(self) -> Sequence[WeightedSet]:
        """The penalty as it was last adjusted."""
        return list(self._penalties)

    def choose(self, parameters: Mapping[str, Tensor], step: int) -> Sequence[Tensor]:
        """The groups that went for good at this step."""
        if step not in self.course.choices:
            raise InputError(
                "the run that is replayed chose no groups where this one has to",
                "give the same options, data and seed as then",
            )
        chosen = self.course.choices[step]
        self.settle(parameters, chosen)
        return chosen

    def lacks(self, parameters: Mapping[str, Tensor], step: int) -> bool:
        """Whether groups were chosen anew at this step."""
        return step in self.course.choices

    def state(self) -> dict[str, Any]:
        """How far the course was followed."""
        return {"step": self._step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for step in sorted(self.course.changes):
            if step <= state["step"]:
                self._apply(step)
        self._step = state["step"]

    def _apply(self, step: int) -> None:
        for number, (strength, shares) in self.course.changes.get(step, {}).items():
            self._penalties[number] = replace(self.weighted[number], strength=strength, shares=shares)
        self._step = step


def read_course(
    path: Path, weighted: Sequence[WeightedSet], steps: int, given: Mapping[str, Any] | None = None
) -> Course:
    """The course of strengths that a run left in its ``metrics.jsonl``.

    Args:
        path: the file.
        weighted: the sets that are to follow it.
        steps: of the penalised phase.
        given: what this run was given, as a course's record has it; None: anything.

    Raises:
        UsageError: it was made with other options.
        InputError: it cannot be read, holds no such course, or is of another network or length.
    """
    try:
        records = list(_records(path))
        started = [record["run"] for record in records if "run" in record]
        if not started:
            raise _no_course(path)
        _check_sets(path, started[0], weighted)
        _check_given(started[0].get("given", {}), given or {})
        _check_steps(path, started[0], steps)
        if not any(record.get("kind") == "end" for record in records):
            raise InputError(
                f"the run of {path} did not end", "let it end first, by the same command as then"
            )
        counts = [entry.group_set.count for entry in weighted]
        return Course(
            every=_whole(started[0]["every"]),
            changes={
                _whole(record["step"], 0): _changes(record["sets"], counts)
                for record in records
                if "sets" in record
            },
            choices={
                _whole(record["step"], 0): _choice(record["choice"], counts)
                for record in records
                if "choice" in record
            },
        )
    except OSError as error:
        raise InputError(f"{path} cannot be read ({describe(error)})", "check the path") from error
    except UnicodeDecodeError as error:
        raise _no_course(path) from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({describe(error)})", "name a whole metrics.jsonl") from error


def _records(path: Path) -> Iterator[dict[str, Any]]:
    for line in read_bounded(path, _MAX_BYTES).decode().splitlines():
        record = json.loads(line)
        if record["kind"] in ("strengths", "end"):
            yield record


def _no_course(path: Path) -> InputError:
    return InputError(
        f"{path} holds no strengths of a controller",
        "name the OUT.metrics.jsonl of a `sslcli regularize --target`",
    )


def _check_sets(path: Path, run: Mapping[str, Any], weighted: Sequence[WeightedSet]) -> None:
    wanted, found = described([entry.group_set for entry in weighted]), list(run["sets"])
    if found != wanted:
        theirs, ours = _first_difference(found, wanted)
        raise InputError(
            f"{path} is of another network or of other structures: it has {theirs} where this run has {ours}",
            "give the same model and --structure as then",
        )


def _check_given(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse what would not repeat the run; what an older course does not tell is taken to be the same."""
    for name in now:
        if name in then and then[name] != now[name]:
            raise UsageError(
                f"the course was made {_flag(name, then[name])}, not {_flag(name, now[name])}",
                "give the same options as then to replay it, or train anew without --replay",
            )


def _flag(name: str, value: Any) -> str:
    """An option as it is given, or that it is not."""
    flag = f"--{name.replace('_', '-')}"
    if value is None or value in ([], {}):
        return f"without {flag}"
    if isinstance(value, bool):
        return f"with {flag if value else f'--no-{flag[2:]}'}"
    if isinstance(value, Mapping):
        return "with " + " ".join(f"{flag} {key}={each}" for key, each in value.items())
    return f"with {flag} {','.join(map(str, value)) if isinstance(value, list) else value}"


def _check_steps(path: Path, run: Mapping[str, Any], steps: int) -> None:
    if run["steps"] != steps:
        raise InputError(
            f"{path} is of a run of {run['steps']} steps under the penalty, and this has {steps}",
            "give the same data, --batch-size, --epochs and --max-steps as then",
        )


def _first_difference(found: list[Any], wanted: list[Any]) -> tuple[str, str]:
    length = max(len(found), len(wanted))
    pairs = zip(found + [None] * (length - len(found)), wanted + [None] * (length - len(wanted)), strict=True)
    theirs, ours = next(pair for pair in pairs if pair[0] != pair[1])
    return _named(theirs), _named(ours)


def _named(entry: Sequence[Any] | None) -> str:
    return "nothing" if entry is None else f"{entry[2]} {entry[0]} groups of {entry[1]}"


def _changes(sets: Mapping[str, Any], counts: Sequence[int]) -> dict[int, Change]:
    changes: dict[int, Change] = {}
    for text, (strength, shares) in sets.items():
        number = _whole(int(text), 0)
        if not isinstance(strength, int | float) or not math.isfinite(strength) or strength < 0:
            raise ValueError(f"a strength is {strength}")
        changes[number] = (float(strength), None if shares is None else shares_of(shares, counts[number]))
    return changes


def _choice(texts: Sequence[object], counts: Sequence[int]) -> list[Tensor]:
    return [groups_of(text, count) for text, count in zip(texts, counts, strict=True)]


def _whole(value: object, least: int = 1) -> int:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"a number is {value}")
    return value
