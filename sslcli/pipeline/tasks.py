"""The user's own task: ``--task file.py:factory``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sslcli.errors import InputError

if TYPE_CHECKING:
    from sslcli.training.task import Task


def load_task(reference: str | None) -> Task | None:
    """The task that a code reference makes; None, which is classification, where none is named.

    Runs the user's code.

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
            f"the task {reference} made a {type(task).__name__}", "return a sslcli.Task(name, loss, metric)"
        )
    return task
