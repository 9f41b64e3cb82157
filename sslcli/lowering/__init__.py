"""torch -> ONNX, and ONNX -> faster ONNX with every rewrite checked and measured."""

from __future__ import annotations

from sslcli.lowering.from_torch import export_onnx

__all__ = ["export_onnx"]
