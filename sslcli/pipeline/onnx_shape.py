"""What an ONNX model consists of: its layers with constant weights, what is live in them, and their MACs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from sslcli.bench.graphs import node_macs, shaped_graph
from sslcli.bench.inputs import RunSettings
from sslcli.checkpoint import record_of_onnx
from sslcli.lowering.check import fixed_batch_size
from sslcli.lowering.files import read_onnx
from sslcli.lowering.patterns import macs_share
from sslcli.lowering.sites import LinearSite, Site, find_sites
from sslcli.pipeline.results import InspectResult


def inspect_onnx(path: Path, input_shape: tuple[int, ...] | None = None) -> InspectResult:
    """Count for one item; an ONNX file has no groups beyond its own layers.

    Args:
        path: the file.
        input_shape: sizes of the axes beside the batch, where the inputs leave them open.

    Raises:
        ModelError: it cannot be read.
        InputError: its inputs leave axes open and nothing says their size.
    """
    model = read_onnx(path)
    batch = fixed_batch_size(model.graph)
    graph = shaped_graph(path, RunSettings(batch_size=batch or 1, input_shape=input_shape))
    counts = {node.name: (node_macs(graph, node) or 0) // (batch or 1) for node in graph.nodes}
    layers = [_row(name, site, counts.get(name, 0)) for name, site in find_sites(model).items()]
    rest = sum(counts.values()) - sum(layer["macs"] for layer in layers)
    record = record_of_onnx(model, str(path))
    return InspectResult(
        source=str(path),
        macs=sum(counts.values()),
        macs_packed=rest + sum(layer["macs_packed"] for layer in layers),
        params=sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer),
        layers=layers,
        details={"record": json.loads(dataclasses.replace(record, plan=None).to_json())},
    )


def _row(name: str, site: Site, macs: int) -> dict[str, Any]:
    """Convolution groups are added up, as for other models."""
    weight = site.weight != 0
    groups = 1 if isinstance(site, LinearSite) else site.groups
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    rows, channels, columns = grouped.any(axis=(2, 3)), grouped.any(axis=(1, 3)), grouped.any(axis=1)
    return {
        "name": name,
        "kind": "linear" if isinstance(site, LinearSite) else "conv",
        "shape": list(weight.shape),
        "filters": [int(rows.sum()), rows.size],
        "channels": [int(channels.sum()), channels.size],
        "columns": [int(columns.sum()), columns.size],
        "macs": macs,
        "macs_packed": round(macs * macs_share(site)),
    }
