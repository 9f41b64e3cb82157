"""Saved models in and out; the only place that unpickles."""

from __future__ import annotations

from sslcli.checkpoint.load import Checkpoint, load
from sslcli.checkpoint.onnx_record import record_of_onnx, set_record
from sslcli.checkpoint.record import InputSpec, Parent, Record, Step
from sslcli.checkpoint.save import save

__all__ = [
    "Checkpoint",
    "InputSpec",
    "Parent",
    "Record",
    "Step",
    "load",
    "record_of_onnx",
    "save",
    "set_record",
]
