"""The record inside ONNX files: the metadata entry `sslcli` of the model."""

from __future__ import annotations

import onnx

from sslcli.checkpoint.record import METADATA_KEY, Record


def record_of_onnx(model: onnx.ModelProto, where: str) -> Record:
    """The record of an ONNX model; an empty one where it has none.

    Raises:
        ModelError: the record is not valid.
    """
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            return Record.from_json(entry.value, where)
    return Record()


def set_record(model: onnx.ModelProto, record: Record) -> None:
    """Write the record into an ONNX model, in place; other metadata stays."""
    entry = next((entry for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    if entry is None:
        entry = model.metadata_props.add(key=METADATA_KEY)
    entry.value = record.to_json()
