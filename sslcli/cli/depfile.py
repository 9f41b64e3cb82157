"""``--depfile``: what a command read, as a rule that make includes.

``OUT: FILE...`` and an empty rule a file, so that a file that is gone makes OUT anew instead of an error.
Files of the user's own code count with all modules of theirs that it imported.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sslcli.files import atomic_output
from sslcli.options.common import ModelOptions
from sslcli.options.steps import Settings
from sslcli.pipeline.request import Request
from sslcli.recipe.model import Recipe
from sslcli.reference import is_file_reference

# A list that was written here before: a rule, an empty line, and empty rules.
RULE = re.compile(rb"[^\n]+: [^\n]*\n\n(?:[^\n]+:\n)*\Z")

_MOST_FILES = 100_000  # of an image folder; above, the folder itself stands for them


def write_depfile(path: Path, target: Path, sources: Iterable[Path]) -> None:
    """Write the rule of ``target``, whole or not at all."""
    files = list(dict.fromkeys(_shown(source) for source in sources if source.exists()))
    lines = [f"{_escaped(str(target))}: {' '.join(map(_escaped, files))}", ""]
    lines += [f"{_escaped(file)}:" for file in files]
    with atomic_output(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def files_of_request(request: Request) -> Iterator[Path]:
    """Every file that one command was named."""
    yield from _files(request.source, *request.others)
    yield from files_of_settings(request.settings)


def files_of_settings(settings: Settings) -> Iterator[Path]:
    """Every file that options name: models, code, image folders."""
    step, data = settings.step, settings.data
    named: list[Any] = [settings.model.arch, data.data, data.normalize_from]
    named += [getattr(step, name, None) for name in ("task", "teacher", "baseline", "compare", "replay")]
    yield from _files(*named)


def files_of_model(options: ModelOptions) -> Iterator[Path]:
    """The code that an architecture names."""
    yield from _files(options.arch)


def files_of_recipe(recipe: Recipe) -> Iterator[Path]:
    """The recipe and every file that it names."""
    yield recipe.file
    yield from _files(recipe.source)
    for step in recipe.steps:
        yield from files_of_settings(step.settings)


def user_modules(sources: Iterable[Path]) -> Iterator[Path]:
    """The modules below the current folder, or beside code among ``sources``, that are imported now."""
    roots = {Path.cwd(), *(path.resolve().parent for path in sources if path.suffix == ".py")}
    installed = (Path(sys.prefix).resolve(), Path(__file__).resolve().parents[1])
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        path = Path(file).resolve() if isinstance(file, str) and file.endswith(".py") else None
        if path is None or any(path.is_relative_to(place) for place in installed):
            continue
        if any(path.is_relative_to(root) for root in roots):
            yield path


def _files(*names: str | None) -> Iterator[Path]:
    for name in filter(None, names):
        if name.startswith("imagefolder:"):
            yield from _folder(Path(name.removeprefix("imagefolder:")).expanduser())
        elif is_file_reference(name):
            yield Path(name.rpartition(":")[0])
        elif Path(name).is_file():
            yield Path(name)


def _folder(folder: Path) -> Iterator[Path]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    yield from found if len(found) <= _MOST_FILES else [folder]


def _shown(path: Path) -> str:
    """Relative to the current folder where it is below it, as a Makefile names it."""
    absolute = Path(os.path.normpath(Path.cwd() / path))
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def _escaped(name: str) -> str:
    return name.replace("$", "$$").replace("#", r"\#").replace(" ", r"\ ").replace(":", r"\:")
