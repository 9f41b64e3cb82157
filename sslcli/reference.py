"""Factories named by code reference: `package.module:factory` and `path/file.py:factory`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from sslcli.errors import InputError, ModelError, SslcliError

_PREFIX = "sslcli_code_"


def is_file_reference(reference: str) -> bool:
    """Whether it is of the form `path/file.py:factory`."""
    return reference.rpartition(":")[0].endswith(".py")


@contextlib.contextmanager
def import_path(reference: str) -> Iterator[None]:
    """Make the reference's neighbours importable: the file's folder, or the current folder for a module.

    Appended, so that nothing in that folder hides an installed package.
    """
    folder = (
        Path(reference.rpartition(":")[0]).resolve().parent if is_file_reference(reference) else Path.cwd()
    )
    entry = str(folder)
    added = entry not in sys.path
    if added:
        sys.path.append(entry)
    try:
        yield
    finally:
        if added and entry in sys.path:
            sys.path.remove(entry)


def resolve(reference: str, failure: type[InputError] = ModelError) -> Any:
    """The object that `package.module:name` or `path/file.py:name` names; runs that code.

    Raises:
        InputError: there is no such file, module or attribute, or importing it fails; its class
            is ``failure``.
    """
    place, _, attribute = reference.rpartition(":")
    if not place or not attribute:
        raise failure(
            f"{reference!r} is not a code reference", "write package.module:factory or file.py:factory"
        )
    module = (
        _module_from_file(Path(place), failure)
        if is_file_reference(reference)
        else _module_by_name(place, failure)
    )
    value: Any = module
    for name in attribute.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            public = ", ".join(n for n in vars(module) if not n.startswith("_") and callable(vars(module)[n]))
            raise failure(
                f"{place} has no attribute {attribute!r}", f"it defines: {public[:300] or 'nothing callable'}"
            ) from None
    return value


def made_by(call: Callable[[], Any], what: str, failure: type[InputError]) -> Any:
    """What the user's factory returns; whatever it raises, but our own errors, becomes ``failure``."""
    with _users_code(f"calling {what} failed", "call it in python to see where", failure):
        return call()


@contextlib.contextmanager
def _users_code(failed: str, hint: str, failure: type[InputError]) -> Iterator[None]:
    """Code of the user's may raise anything: what it raises, but our own errors, becomes ``failure``."""
    try:
        yield
    except SslcliError:
        raise
    except Exception as error:
        raise failure(f"{failed} ({describe(error)})", hint) from error


def loaded_files() -> list[str]:
    """The user's files of code that this process has run, for worker processes that start without them."""
    return [str(module.__file__) for name, module in list(sys.modules.items()) if name.startswith(_PREFIX)]


def load_files(paths: Iterable[str]) -> None:
    """Run files of code as :func:`resolve` did in the process that sent them here."""
    for path in paths:
        with import_path(f"{path}:"):
            _module_from_file(Path(path), InputError)


def _module_from_file(path: Path, failure: type[InputError]) -> ModuleType:
    if not path.is_file():
        raise failure(f"there is no file {path}", "check the path before the colon")
    resolved = path.resolve()
    name = f"{_PREFIX}{hashlib.sha256(str(resolved).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise failure(f"{path} cannot be imported as Python", "name a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        with _users_code(f"{path} cannot be imported", "run it with python to see where", failure):
            spec.loader.exec_module(module)
    except SslcliError:
        sys.modules.pop(name, None)
        raise
    return module


def _module_by_name(name: str, failure: type[InputError]) -> ModuleType:
    with _users_code(f"module {name!r} cannot be imported", "import it in python to see where", failure):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
                raise failure(
                    f"there is no module {name!r}",
                    "install it, or run where Python finds it, or write file.py:factory",
                ) from error
            raise failure(
                f"module {name!r} needs {error.name!r}, which is not installed", "install it"
            ) from error


def line_of(error: BaseException) -> str | None:
    """``file.py:12``, the innermost line of the user's own code that an error came through."""
    ours, installed = Path(__file__).resolve().parent, Path(sys.prefix).resolve()
    standard = Path(contextlib.__file__).resolve().parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        parents = path.resolve().parents
        if path.is_file() and not {ours, installed, standard} & set(parents):
            return f"{path.name}:{frame.lineno}"
    return None


def describe(error: BaseException) -> str:
    """`TypeError: first line of its message`, bounded."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
