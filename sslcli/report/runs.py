"""What a run left in its folder, read back for its page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslcli.errors import InputError
from sslcli.files import read_bounded
from sslcli.reference import describe
from sslcli.report.gathered import gathered

RUN_SCHEMA = "sslcli/run/1"
STEP_ID = re.compile(r"\w[\w.+ -]{0,100}")
_MAX_BYTES = 256 << 20  # with the raw samples of every layer that was timed
Json = Mapping[str, Any]


@dataclass(frozen=True)
class ReportResult:
    """``report``: the page, and the runs that it is about."""

    output: str
    runs: list[str]


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        folder: where it is.
        result: ``run.json``.
        given: per step, the options that its recipe or its command line states.
        courses: per step that trained, its records of epochs.
        commands: per step, the command line that does the same; none of runs of older versions.
    """

    folder: Path
    result: Json
    given: Mapping[str, Json]
    courses: Mapping[str, list[Json]]
    commands: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def command(self) -> str:
        """The command line of the whole run; empty for results of single commands."""
        made, recipe = _object(self.result.get("made")), self.result.get("recipe")
        return str(made.get("command") or (f"sslcli run {recipe}" if recipe else ""))

    @property
    def dates(self) -> list[str]:
        """When the work was done, as the records say it, the oldest first."""
        return sorted({str(made["created"]) for made in self._made() if made.get("created")})

    @property
    def seeds(self) -> list[int]:
        """The seeds of all steps."""
        return sorted({int(made["seed"]) for made in self._made() if isinstance(made.get("seed"), int)})

    def _made(self) -> list[Json]:
        """How the run and its steps were made; a bench said when before the others did."""
        results = [_object(step.get("result")) for step in self.steps]
        found = [self.result, *results]
        return [_object(result.get(key)) for result in found for key in ("made", "comparison")]

    @property
    def steps(self) -> list[Json]:
        """The steps, in the order of the recipe."""
        return list(self.result["steps"])

    @property
    def smallest(self) -> Json:
        """The model with the fewest MACs left, the last of equals: what the run is compared by."""
        return self.models[smallest([int(model["macs_packed"]) for model in self.models])]

    @property
    def models(self) -> list[Json]:
        """The models of the closing table, the first one the dense one."""
        return list(self.result["models"])

    def model_file(self, step: str) -> Path:
        """The ``.pt2`` that a step made: in its own folder, or beside the results of single commands."""
        outputs: list[Any] = next((found["outputs"] for found in self.steps if found["id"] == step), [])
        beside = [self.folder / Path(str(output)).name for output in outputs]
        return next((path for path in beside if path.is_file()), self.folder / step / "model.pt2")


def smallest(macs: Sequence[int]) -> int:
    """Which model has the fewest MACs, the last of equals; 0 are those of a model that nobody counted."""
    return min(reversed(range(len(macs))), key=lambda place: macs[place] or math.inf)


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """The runs in their order; a folder that is named twice is one run."""
    different: dict[Path, Path] = {}
    for folder in folders:
        different.setdefault(folder.resolve(), folder)
    return [read_run(folder) for folder in different.values()]


def read_run(folder: Path) -> Run:
    """Read the folder of a run, or one of ``--json`` files that single commands wrote.

    Raises:
        InputError: it is not one, or its files are damaged.
    """
    single = None if (folder / "run.json").exists() else gathered(folder)
    result = single or _read_json(folder / "run.json", folder)
    if result.get("schema") != RUN_SCHEMA:
        raise InputError(
            f"{folder}/run.json has schema {result.get('schema')}, not {RUN_SCHEMA}",
            "run the recipe again with this version",
        )
    given, courses, commands = {}, {}, {}
    for step in _steps(result, folder):
        place = folder / step["id"]
        if (place / "step.json").is_file():
            recorded = _read_json(place / "step.json", folder)
            given[step["id"]] = recorded.get("given") or {}
            commands[step["id"]] = str(recorded.get("command") or "")
        elif made := _object(_object(step.get("result")).get("made")):
            given[step["id"]] = _object(made.get("options"))
            commands[step["id"]] = str(made.get("command") or "")
        records = read_course(place / "metrics.jsonl") or read_course(_course_beside(step, folder))
        if records:
            courses[step["id"]] = records
    return Run(folder, result, given, courses, {name: line for name, line in commands.items() if line})


def _steps(result: Json, folder: Path) -> list[Json]:
    """The steps, whose names are those of folders."""
    steps, models = result.get("steps"), result.get("models")
    if not isinstance(steps, list) or not isinstance(models, list):
        raise InputError(f"{folder}/run.json is damaged (no steps or models)", "run the recipe again")
    for entry in (*steps, *models):
        name = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not STEP_ID.fullmatch(name):
            raise InputError(f"{folder}/run.json is damaged (a step without a name)", "run the recipe again")
    return steps


def _object(value: Any) -> Json:
    """A JSON object; an empty one for what older versions did not write."""
    return value if isinstance(value, Mapping) else {}


def _course_beside(step: Json, folder: Path) -> Path:
    """Where a single command keeps its course: ``sparse.metrics.jsonl`` beside ``sparse.pt2``."""
    outputs = step.get("outputs") or [""]
    return folder / f"{Path(str(outputs[0])).stem}.metrics.jsonl"


def read_course(path: Path) -> list[Json]:
    """The epoch records of ``metrics.jsonl``; none where there is no such file."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was killed
        if record.get("kind") == "epoch":
            records.append(record)
    return records


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bounded(path, _MAX_BYTES))
    except OSError as error:
        raise InputError(
            f"{folder} holds no finished run ({path.name}: {error.strerror})",
            "name a folder that `sslcli run` made",
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({describe(error)})", "run the recipe again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged (not an object)", "run the recipe again")
    return content
