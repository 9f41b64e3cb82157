"""Timing of ONNX models, layer by layer and whole, on the provider that will serve them."""

from __future__ import annotations

from sslcli.bench.inputs import ModelSource, RunSettings
from sslcli.bench.runner import Samples, Subject, Timing, interleave, time_models

__all__ = ["ModelSource", "RunSettings", "Samples", "Subject", "Timing", "interleave", "time_models"]
