"""Options of ``export``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from sslcli.options.common import Options, Positive, Provider

OLDEST_OPSET = 13
OPSET = 18
NEWEST_OPSET = 28
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
DType = Literal["fp32", "fp16", "bf16"]

# The lowerings; `sslcli.lowering.forms` has a function for each.
FORMS = (
    "compact",
    "compact-8",
    "compact-16",
    "separate",
    "separate-2",
    "separate-4",
    "shift",
    "shift-pad",
    "shift-128",
    "shift-192-pad",
    "row-shift",
    "row-shift-128",
    "row-shift-192-pad",
    "per-tap",
    "im2col",
    "flat",
    "flat-compact",
    "flat-shift",
    "compact-columns",
)


class ExportOptions(Options):
    """How a model is written as ONNX and lowered for its target."""

    lower: str = Field(
        "auto",
        description="auto measures every lowering and keeps the fastest; dense uses none; "
        f"or one of {', '.join(FORMS)} wherever it applies.",
    )
    provider: Provider = Field("cpu", description="Where the model will run: cpu or cuda.")
    threads: Positive = Field(1, description="Threads that the target gives to one operator.")
    batch_size: Positive = Field(
        1, description="Items in one run on the target; the file takes any batch unless the model fixes it."
    )
    opset: Annotated[int, Field(ge=OLDEST_OPSET, le=NEWEST_OPSET)] | None = Field(
        None,
        description=f"ONNX operator set, {OLDEST_OPSET} to {NEWEST_OPSET}; default: {OPSET}, and that of the "
        "file where an ONNX file is given.",
    )
    dtype: DType = Field(
        "fp32", description="Weights and arithmetic: fp32, fp16 or bf16; inputs and outputs stay fp32."
    )
    budget: PositiveFloat = Field(1.0, description="Seconds of measurement for one layer.")
    explain: bool = Field(False, description="Print what was measured for every layer and what was kept.")
    cache: bool = Field(
        True,
        description="Use timings of earlier exports on this host and add to them, in SSLCLI_CACHE_DIR "
        "(else ~/.cache/sslcli).",
    )

    @field_validator("lower")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in ("auto", "dense", *FORMS):
            raise ValueError(
                f"no lowering is called {value}; choose auto, dense or one of {', '.join(FORMS)}"
            )
        return value
