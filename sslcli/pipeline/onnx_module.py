"""An ONNX file as a module, so that it is measured by the same code as any other model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from sslcli.errors import ModelError

_DTYPES = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16}


class OnnxModule(nn.Module):
    """Runs an ONNX model on the CPU by ONNX Runtime; it cannot be trained."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__()
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4  # what goes wrong is raised and told once
        if threads is not None:
            settings.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            raise ModelError(
                f"onnxruntime cannot open {path} ({_first_line(error)})", "is it ONNX?"
            ) from error
        self.inputs: list[Any] = self.session.get_inputs()

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Outputs as torch tensors; one, or a tuple."""
        feeds = {
            spec.name: value.to(_DTYPES.get(spec.type, value.dtype)).numpy(force=True)
            for spec, value in zip(self.inputs, inputs, strict=True)
        }
        try:
            outputs = [torch.from_numpy(array) for array in self.session.run(None, feeds)]
        except Exception as error:
            raise ModelError(
                f"the ONNX model does not run on this data ({_first_line(error)})",
                "name the data that it was trained on",
            ) from error
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of the first input without the batch axis, where it is fixed."""
        shape = self.inputs[0].shape[1:]
        return tuple(shape) if all(isinstance(size, int) for size in shape) else None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
