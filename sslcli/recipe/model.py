"""What a recipe consists of: the keys as pydantic models, and the validated recipe itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from sslcli.options.common import DataOptions, ModelOptions, Options
from sslcli.options.steps import Settings
from sslcli.recipe.document import Document

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class ModelKeys(ModelOptions):
    """``model:`` what the first step starts from."""

    weights: str | None = Field(
        None, description="Saved model or state dict; without it the architecture starts fresh from the seed."
    )


class DataKeys(DataOptions):
    """``data:`` what every step reads that reads data."""

    name: str | None = Field(None, description="The data set; the same as `data`.")


class StepKeys(Options):
    """One entry of ``steps:``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    id: Identifier = Field(description="The step's name: its folder, and what others need it by.")
    uses: Literal["train", "regularize", "prune", "export", "bench", "inspect", "evaluate"] = Field(
        description="The command that the step runs."
    )
    needs: str | list[str] | None = Field(
        None,
        description="Steps that come first; the step works on the output of the first of them. "
        "Default: the step before; [] is the recipe's model.",
    )
    values: dict[str, Any] | None = Field(
        None, alias="with", description="The command's options, as its flags without the dashes."
    )


class RecipeKeys(Options):
    """The whole file."""

    version: Literal[1] = Field(description="The version of the format.")
    seed: int = Field(0, description="Seed of every random choice of every step.")
    model: ModelKeys = Field(description="The model that the first step starts from.")
    data: DataKeys = Field(DataKeys.model_validate({}), description="The data set of all steps.")
    steps: Annotated[list[StepKeys], Field(min_length=1)] = Field(description="The chain.")


@dataclass(frozen=True)
class Step:
    """One step, ready to run.

    Attributes:
        id: name and folder.
        uses: the command.
        inputs: ids of the steps whose outputs it works on, in that order; empty for the recipe's model.
        needs: ids of all steps that come before it: inputs, and what its options name, as the teacher.
        given: the options that the recipe states, as they were written.
        settings: all options, validated.
        index: position in the recipe, for the places of its values.
    """

    id: str
    uses: str
    inputs: tuple[str, ...]
    needs: tuple[str, ...]
    given: dict[str, Any]
    settings: Settings
    index: int


@dataclass(frozen=True)
class Recipe:
    """A validated recipe.

    Attributes:
        name: the file's stem; outputs land in ``runs/NAME``.
        source: what names the start model on a command line (``arch:lenet``, ``weights.pth``).
        overrides: ``KEY=VALUE`` of values that were changed when it was read.
        machine: ``device`` and ``threads`` that were given to the steps that say none.
    """

    file: Path
    name: str
    seed: int
    source: str
    model: ModelOptions
    data: DataOptions
    steps: tuple[Step, ...]
    document: Document
    overrides: tuple[str, ...] = ()
    machine: Mapping[str, object] = field(default_factory=dict)

    def step(self, identifier: str) -> Step:
        """The step of that id."""
        return next(step for step in self.steps if step.id == identifier)

    def place(self, step: Step, word: str | None = None) -> str:
        """``file:line`` of ``word`` (a key or a value) within ``step``, or of the step itself."""
        path = ("steps", step.index)
        found = self.document.find(path, word) if word is not None else None
        return found or self.document.place(path)

    def mentions(self, step: Step, word: str) -> bool:
        """Whether ``word`` is a key or a value of ``step``."""
        return self.document.find(("steps", step.index), word) is not None
