"""What a model consists of now: per layer what is live, and the MACs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslcli.pipeline.results import Layer, Shape

if TYPE_CHECKING:
    from torch import nn

    from sslcli.surgery.measure import Layer as Measured


def shape_of_model(model: nn.Module, example: Any) -> Shape:
    """Trace a model and count."""
    from sslcli.graph.normalise import normalise
    from sslcli.graph.slots import analyse
    from sslcli.graph.trace import trace
    from sslcli.surgery.cut import count
    from sslcli.surgery.measure import layers, packed_macs

    structure = analyse(normalise(trace(model, example)))
    whole = count(None, structure)
    return Shape(
        layers=[_layer(layer) for layer in layers(structure)],
        macs=whole.macs,
        macs_packed=packed_macs(structure),
        params=whole.params,
    )


def shape_of_onnx(path: Path, input_shape: tuple[int, ...] | None = None) -> Shape:
    """Count an ONNX file, whose open axes beside the batch have the sizes ``input_shape``."""
    from sslcli.pipeline.onnx_shape import inspect_onnx

    found = inspect_onnx(path, input_shape)
    layers = [
        Layer(
            name=layer["name"],
            kind=layer["kind"],
            shape=layer["shape"],
            filters=layer["filters"][0],
            channels=layer["channels"][0],
            columns=layer["columns"][0],
            macs=layer["macs"],
            macs_packed=layer["macs_packed"],
        )
        for layer in found.layers
    ]
    return Shape(layers, found.macs, found.macs_packed, found.params)


def as_row(layer: Measured) -> dict[str, Any]:
    """One measured layer for a table: [live, all] of filters, channels and columns."""
    return {
        "name": layer.name,
        "kind": layer.kind,
        "shape": list(layer.shape),
        "filters": list(layer.filters),
        "channels": list(layer.channels),
        "columns": list(layer.columns),
        "macs": layer.macs,
        "macs_packed": layer.macs_packed,
        "why": "; ".join(layer.reasons),
    }


def _layer(layer: Measured) -> Layer:
    return Layer(
        name=layer.name,
        kind=layer.kind,
        shape=list(layer.shape),
        filters=layer.filters[0],
        channels=layer.channels[0],
        columns=layer.columns[0],
        macs=layer.macs,
        macs_packed=layer.macs_packed,
    )
