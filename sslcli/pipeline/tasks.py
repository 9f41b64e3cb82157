"""The user's own task: ``--task file.py:factory``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sslcli.errors import InputError, SslcliError

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
    from sslcli.reference import describe, import_path, resolve
    from sslcli.training.task import Task

    with import_path(reference):
        factory: Any = resolve(reference, InputError)
        try:
            task = factory() if callable(factory) else factory
        except SslcliError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise InputError(
                f"calling the task {reference} failed ({describe(error)})", "call it in python to see where"
            ) from error
    if not isinstance(task, Task):
        raise InputError(
            f"the task {reference} made a {type(task).__name__}", "return a sslcli.Task(name, loss, metric)"
        )
    return task
