"""Pass: 32 bit floats -> 16 bit floats inside, inputs and outputs unchanged."""

from __future__ import annotations

import onnx

from sslcli.options.export import DType


def convert(model: onnx.ModelProto, dtype: DType) -> onnx.ModelProto:
    """The model in another precision; ``fp32`` gives it back as it is."""
    if dtype == "fp32":
        return model
    raise NotImplementedError(dtype)
