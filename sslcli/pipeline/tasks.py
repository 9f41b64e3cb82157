"""The user's own task: ``--task file.py:factory``."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sslcli.errors import InputError, SslcliError, kind_of

if TYPE_CHECKING:
    from sslcli.checkpoint import Record
    from sslcli.training.task import Task

_FUNCTIONS = ("loss", "metric", "distill", "forward")


def load_task(reference: str | None) -> Task | None:
    """The task that a code reference makes; None, which is classification, where none is named.

    Runs the user's code. What its functions raise later is told as the task's fault.

    Raises:
        InputError: there is no such file, module or name, or the factory fails or makes something else.
    """
    if reference is None:
        return None
    from sslcli.reference import import_path, made_by, resolve
    from sslcli.training.task import Task

    with import_path(reference):
        factory: Any = resolve(reference, InputError)
        task = made_by(factory, f"the task {reference}", InputError) if callable(factory) else factory
    if not isinstance(task, Task):
        raise InputError(
            f"the task {reference} made {kind_of(task)}", "return a sslcli.Task(name, loss, metric)"
        )
    return _blamed(task, reference)


@contextlib.contextmanager
def recorded_task_told(record: Record) -> Iterator[None]:
    """Where a model turns out to be no classifier, say what task its record names; that code is not run."""
    from sslcli.training.task import NotClassesError

    try:
        yield
    except NotClassesError as error:
        named = [task for step in record.provenance if isinstance(task := step.options.get("task"), str)]
        if not named:
            raise
        hint = f"the model's record names the task it has learned: give --task {named[-1]}"
        raise InputError(error.what, hint) from error


def _blamed(task: Task, reference: str) -> Task:
    """The task with its own functions guarded; those that sslcli gives by default are not the user's."""
    from sslcli.training.task import call

    blamed = copy.copy(task)
    for name in _FUNCTIONS:
        function = getattr(task, name)
        if function is not None and function is not call:
            guarded = _guarded(function, f"the {name} of the task {reference}")
            object.__setattr__(blamed, name, guarded)  # frozen, and a subclass may be made otherwise
    return blamed


def _guarded(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """``function``, whose errors become an InputError that names it and the user's line that failed."""

    def guarded(*arguments: Any) -> Any:
        from sslcli.reference import describe, line_of

        try:
            return function(*arguments)
        except (SslcliError, MemoryError):
            raise
        except Exception as error:
            if _is_of_the_machine(error):
                raise
            place = line_of(error)
            hint = "repair that line" if place else "call it in python to see where"
            failed = f"{what} fails at {place}" if place else f"{what} fails"
            raise InputError(f"{failed} ({describe(error)})", hint) from error

    return guarded


def _is_of_the_machine(error: Exception) -> bool:
    """Errors that are told elsewhere: no memory, or no deterministic form of an operator on this device."""
    import torch

    texts = ("allocate memory", "deterministic implementation")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)
