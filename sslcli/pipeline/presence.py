"""Whether the files that a job names are there, told before torch is imported for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sslcli.errors import DataError, InputError, ModelError
from sslcli.options.steps import Settings
from sslcli.pipeline.request import Request
from sslcli.reference import is_file_reference

_FRESH = "arch:"
_PREFIXES = (_FRESH, "torchvision:", "timm:")  # the last two: asked for without "arch:", told by the loader


def check_present(request: Request) -> None:
    """Look for every file that a request names.

    Raises:
        ModelError: a model, or the code of one, is missing.
        DataError: data, or the code of a data set, is missing.
        InputError: the code of a task is missing.
    """
    for source in (request.source, *request.others):
        check_model(source)
    for failure in missing(request.settings):
        raise failure


def check_model(source: str) -> None:
    """Raise ModelError where a model is named as a file that is not there."""
    if source.startswith(_PREFIXES) or Path(source).exists():
        return
    if not Path(source).suffix:
        raise ModelError(
            f"the saved model {source} does not exist",
            f"check the path, or write {_FRESH}{source} for a fresh one",
        )
    raise ModelError(f"the saved model {source} does not exist", "check the path")


def missing(settings: Settings) -> Iterator[InputError]:
    """What the options name and is not there, as errors."""
    step, data = settings.step, settings.data
    yield from _code("the architecture", settings.model.arch, ModelError)
    yield from _code("the task", getattr(step, "task", None), InputError)
    yield from _file("the teacher", getattr(step, "teacher", None))
    yield from _file("the course to replay", getattr(step, "replay", None))
    yield from _file("the model", data.normalize_from)
    if data.data is not None and data.data.startswith("imagefolder:"):
        folder = data.data.removeprefix("imagefolder:")
        if not Path(folder).expanduser().is_dir():
            yield DataError(
                f"the image folder {folder} does not exist", "check the path after the colon", folder
            )
    else:
        yield from _code("the data set", data.data, DataError)


def _code(what: str, reference: str | None, failure: type[InputError]) -> Iterator[InputError]:
    if reference is None or not is_file_reference(reference):
        return
    path = Path(reference.rpartition(":")[0])
    if not path.is_file():
        yield failure(f"{what} {reference} names {path}, which does not exist", "check the path", reference)


def _file(what: str, source: str | None) -> Iterator[ModelError]:
    if source is not None and not source.startswith(_PREFIXES) and not Path(source).exists():
        yield ModelError(f"{what} {source} does not exist", "check the path", source)
