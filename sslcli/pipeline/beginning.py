"""What a new recipe starts from, looked at before it is written: is it there, and what will be used."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from sslcli.errors import UnknownShapeError
from sslcli.options.common import DataOptions, ModelOptions
from sslcli.options.names import DATA_SETS
from sslcli.pipeline import inputs
from sslcli.pipeline.presence import check_model
from sslcli.pipeline.tasks import load_task


@dataclass(frozen=True)
class Beginning:
    """What the steps will use where the recipe says nothing; empty where only reading the data would tell."""

    input_shape: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def look(source: str, data: str, model: ModelOptions, task: str | None) -> Beginning:
    """Load the model and make the data set; built-in data are not read, since that may fetch them.

    Runs the user's code where it is named.

    Raises:
        InputError: the model, the data or the task is not there, or is not what it was said to be.
    """
    check_model(source)
    load_task(task)
    options = DataOptions.model_validate({"data": data})
    if data in DATA_SETS:
        with contextlib.suppress(UnknownShapeError):  # the data will tell
            inputs.load_model(source, model, 0)
        return Beginning()
    loaded = inputs.load_model(source, model, 0, options)
    found = inputs.load_data(options, loaded.record, 0, inputs.input_shape_of(loaded))
    norm = found.normalization
    return Beginning(found.input_shape, norm.mean if norm else (), norm.std if norm else ())
