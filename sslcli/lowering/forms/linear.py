"""Fully connected layers with dead rows or columns: a smaller Gemm or MatMul."""

from __future__ import annotations

import numpy as np

from sslcli.lowering.fragments import Builder, Fragment
from sslcli.lowering.patterns import Indices, alive
from sslcli.lowering.sites import Floats, LinearSite


def compact_linear(site: LinearSite, *, restore_rows: bool = True) -> Fragment | None:
    """Lower to a product over live columns (a Gather of features) and live rows (a Gather back).

    With ``restore_rows=False`` all rows are computed. None where nothing can go.
    """
    live_columns = np.flatnonzero(alive(site.weight, 0))
    if not len(live_columns):
        live_columns = np.zeros(1, np.int64)
    rows = _rows(site) if restore_rows else np.arange(len(site.weight))
    weight = site.weight[rows][:, live_columns]
    if weight.shape == site.weight.shape:
        return None
    builder = Builder(site.name, (site.input, site.output))
    source = site.input
    if len(live_columns) < site.weight.shape[1]:
        source = builder.gather(source, live_columns, axis=-1)
    if site.is_matmul:
        out = builder.node("MatMul", [source, builder.constant(weight.T, "weight")])
    else:
        inputs = [source, builder.constant(weight, "weight")]
        if site.bias is not None:
            inputs.append(builder.constant(site.bias[rows], "bias"))
        out = builder.node("Gemm", inputs, {"transB": 1})
    if len(rows) < len(site.weight):
        builder.gather(out, _order(site, rows), axis=-1)
    return builder.finish(site.output)


def _bias(site: LinearSite) -> Floats:
    return np.zeros(len(site.weight), np.float32) if site.bias is None else site.bias


def _rows(site: LinearSite) -> Indices:
    """Live rows, then one dead row for each distinct bias among the dead."""
    live = alive(site.weight, 1)
    dead = np.flatnonzero(~live)
    _, first = np.unique(_bias(site)[dead], return_index=True)
    rows = np.concatenate([np.flatnonzero(live), dead[np.sort(first)]])
    return rows if len(rows) < len(live) else np.arange(len(live))


def _order(site: LinearSite, rows: Indices) -> Indices:
    live, bias = alive(site.weight, 1), _bias(site)
    place = {int(row): position for position, row in enumerate(rows)}
    stand_in = {float(bias[row]): place[int(row)] for row in rows if not live[row]}
    return np.array([place.get(n, stand_in.get(float(bias[n]), -1)) for n in range(len(bias))], np.int64)
