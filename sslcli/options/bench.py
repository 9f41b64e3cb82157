"""Options of ``bench``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from sslcli.options.common import NotNegative, Options, Positive, Provider

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class BenchOptions(Options):
    """How models are timed against a base."""

    baseline: str | None = Field(
        None, description="Step or file of the base in a recipe; on the command line it is the first model."
    )
    providers: tuple[Provider, ...] = Field(
        ("cpu",), min_length=1, description="Where to time: cpu, cuda or both."
    )
    threads: Positive = Field(1, description="Threads inside an operator; operators run one by one.")
    batch_size: Positive | None = Field(
        None, description="Items in one run; default: the base's own where it is fixed, else 1."
    )
    budget: PositiveFloat = Field(
        10.0, description="Seconds of measurement in all; a few blocks are measured even beyond it."
    )
    warmup: NotNegative = Field(3, description="Runs of each model before the first sample.")
    layers: str | None = Field(
        "*",
        description="Name or glob of the layers timed on their own, such as 'layer1.*'; "
        "none: whole models only.",
    )
    unstructured: bool = Field(
        False, description="Also time each convolution with the same sparsity but no structure, as CSR."
    )
    tf32: bool = Field(
        True, description="Let CUDA round float32 factors to TF32 in timed runs, as ONNX Runtime does."
    )
    fail_under: PositiveFloat | None = Field(
        None,
        description="Exit 7 if a whole model's speedup over the base, as 1.5 for 1.5 times, lies below with "
        "its whole interval; layers are not judged; default: no gate.",
    )
    compare: str | None = Field(
        None, description="JSON of an earlier bench that the times are set against; default: none."
    )
    allow_host_mismatch: bool = Field(False, description="Let --compare take a file from another machine.")
    csv: str | None = Field(None, description="File for all rows as CSV; default: none.")
    markdown: str | None = Field(None, description="File for the tables as Markdown; default: none.")

    @field_validator("layers")
    @classmethod
    def _none_is_no_glob(cls, value: str | None) -> str | None:
        """``--layers none`` on a command line, which has no other way to say it."""
        return None if value == "none" else value
