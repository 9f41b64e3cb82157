"""torch -> ONNX, and ONNX -> faster ONNX with every rewrite checked and measured."""

from __future__ import annotations

from sslcli.lowering.from_torch import export_onnx
from sslcli.lowering.public import Exported, export
from sslcli.lowering.select import Decision, Lowered, lower

__all__ = ["Decision", "Exported", "Lowered", "export", "export_onnx", "lower"]
