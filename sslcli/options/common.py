"""Options that several steps share: which model, which data, how to run."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Positive = Annotated[int, Field(gt=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[int, Field(ge=0)]


class Options(BaseModel):
    """Base of all option groups: unknown keys are errors, values are not changed after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """``epochs: yes`` is a mistake, though a bool passes for 1 elsewhere in Python."""
        if isinstance(value, bool) and info.field_name is not None:
            kinds = _members(cls.model_fields[info.field_name].annotation)
            if kinds & {int, float} and bool not in kinds:
                raise PydanticCustomError("float_type", "a number")
        return value


def _members(annotation: Any) -> set[Any]:
    """The plain types that an annotation is made of, through unions and Annotated."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*(_members(item) for item in get_args(annotation)))
    return {annotation} if isinstance(annotation, type) else set()


class ModelOptions(Options):
    """How a saved model is read."""

    arch: str | None = Field(
        None,
        description="Architecture: a built-in name, torchvision:NAME, timm:NAME, "
        "module:factory or file.py:factory; default: what the file says.",
    )
    arch_arg: dict[str, object] = Field(
        default_factory=dict,
        description="Argument of the architecture as NAME=VALUE; repeats; default: none.",
    )
    input_shape: tuple[Positive, ...] | None = Field(
        None,
        description="Shape of one input without the batch axis, such as 3,224,224, "
        "where nothing tells it; default: what the file, the architecture or the data says "
        "(image folders: 3,224,224).",
    )
    trust_pickle: bool = Field(
        False, description="Load a pickled module although unpickling runs code from the file."
    )

    @field_validator("input_shape", mode="before")
    @classmethod
    def _with_commas(cls, value: object) -> object:
        """``3x32x32`` is how people write it."""
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, str) and not item.strip().lstrip("+-").isdigit():
                raise ValueError(f"{item!r} is no size; write whole numbers with commas, such as 3,32,32")
        return value


class DataOptions(Options):
    """Which data, and how inputs are normalised."""

    data: str | None = Field(
        None,
        description="Data set: mnist, fashion-mnist, cifar10, mnist-5k, imagefolder:DIR, "
        "module:factory or file.py:factory; default: the built-in data set or the folder that the model's "
        "record names, never code.",
    )
    data_root: str | None = Field(
        None,
        description="Folder that holds the data sets' files; default: ~/.cache/sslcli/data "
        "(sslcli/data in XDG_CACHE_HOME).",
    )
    mean: tuple[Finite, ...] | None = Field(
        None,
        description="Mean per channel that is subtracted from inputs in 0..1; default: the record's, "
        "else the data set's own, ImageNet's for image folders, none for code.",
    )
    std: tuple[PositiveFloat, ...] | None = Field(
        None, description="Standard deviation per channel that inputs are divided by; default: as for mean."
    )
    normalize_from: str | None = Field(
        None, description="Saved model whose recorded normalisation is used; default: the model's own."
    )
    validation_from: Literal["train", "test"] | None = Field(
        None,
        description="Where the validation split comes from if the data has none: a tenth of train, at most "
        "5,000 samples, or half of test, for a model that has learned all of train; default: as the model's "
        "record says of the same data, else train.",
    )
    batch_size: Positive = Field(64, description="Samples per step over all processes.")
    augment: bool | None = Field(
        None,
        description="Augment training samples; default: cifar10 (shifted, mirrored) and image folders "
        "(cropped, mirrored) are, mnist, fashion-mnist and mnist-5k are not; code does its own.",
    )
    workers: NotNegative = Field(0, description="Worker processes that read data sets of files.")


class RunOptions(Options):
    """Where and how a step runs."""

    seed: int = Field(0, description="Seed of every random choice.")
    device: str = Field(
        "auto", description="cpu, cuda, cuda:N or auto: the first CUDA device, the CPU where there is none."
    )
    threads: Positive | None = Field(
        None, description="Threads of the process; default: OMP_NUM_THREADS, else one a core."
    )


def task_field() -> Any:
    """The option ``task``, which stands in several steps' options."""
    return Field(
        None,
        description="What is learned, as file.py:factory or module:factory that returns a sslcli.Task; "
        "default: classification.",
    )


Provider = Literal["cpu", "cuda"]
