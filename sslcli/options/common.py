"""Options that several steps share: which model, which data, how to run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]


class Options(BaseModel):
    """Base of all option groups: unknown keys are errors, values are not changed after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)


class ModelOptions(Options):
    """How a saved model is read."""

    arch: str | None = Field(
        None,
        description="Architecture: a built-in name, torchvision:NAME, timm:NAME, "
        "module:factory or file.py:factory.",
    )
    arch_arg: dict[str, object] = Field(
        default_factory=dict, description="Argument of the architecture as NAME=VALUE; repeats."
    )
    input_shape: tuple[Positive, ...] | None = Field(
        None,
        description="Shape of one input without the batch axis, such as 3,224,224, "
        "where no example can be inferred.",
    )
    trust_pickle: bool = Field(
        False, description="Load a pickled module although unpickling runs code from the file."
    )


class DataOptions(Options):
    """Which data, and how inputs are normalised."""

    data: str | None = Field(
        None,
        description="Data set: mnist, fashion-mnist, cifar10, mnist-5k, imagefolder:DIR, "
        "module:factory or file.py:factory.",
    )
    data_root: str | None = Field(None, description="Folder that holds the data sets' files.")
    mean: tuple[float, ...] | None = Field(
        None, description="Mean per channel that is subtracted from inputs in 0..1."
    )
    std: tuple[float, ...] | None = Field(
        None, description="Standard deviation per channel that inputs are divided by."
    )
    normalize_from: str | None = Field(None, description="Saved model whose recorded normalisation is used.")
    batch_size: Positive = Field(64, description="Samples per step over all processes.")
    workers: NotNegative = Field(0, description="Worker processes that read data sets of files.")


class RunOptions(Options):
    """Where and how a step runs."""

    seed: int = Field(0, description="Seed of every random choice.")
    device: str = Field("auto", description="cpu, cuda, cuda:N or auto.")
    threads: Positive | None = Field(
        None, description="Threads of the process; default: what the library chooses."
    )


Provider = Literal["cpu", "cuda"]
