"""Which weights of each convolution are left, seen in the shape it had before pruning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslcli.report.plots import Mask

LEAST_AXES = 3


def conv_masks(path: Path) -> dict[str, Mask]:
    """Read a saved model and say where its convolutions are not zero.

    What pruning cut out counts as zero: the record's plan says where it was.

    Args:
        path: a ``.pt2`` of sslcli.

    Returns:
        By layer, a mask of the weight's full shape (N, C / groups, *kernel).

    Raises:
        ModelError: the file cannot be read.
    """
    from sslcli import checkpoint

    loaded = checkpoint.load(path)
    plan = loaded.record.plan or {}
    masks = {}
    for name, parameter in loaded.model.named_parameters():
        if parameter.dim() >= LEAST_AXES and name.endswith("weight"):
            live = (parameter.detach() != 0).numpy()
            masks[name.removesuffix(".weight")] = spread(live, name, plan)
    for name, shape in (plan.get("shapes") or {}).items():
        gone = (plan.get("kept") or {}).get(name, {}) is None
        if gone and len(shape) >= LEAST_AXES and name.endswith(".weight"):
            masks[name.removesuffix(".weight")] = np.zeros(shape, dtype=bool)
    return masks


def spread(live: Mask, name: str, plan: Mapping[str, Any]) -> Mask:
    """Put the mask of a smaller weight where its rows and channels were.

    Args:
        live: mask of the weight as it is now.
        name: the parameter.
        plan: the plan's JSON; ``kept[name][axis]`` are the indices kept, ``shapes[name]`` the full shape.
    """
    kept = (plan.get("kept") or {}).get(name) or {}
    shape = (plan.get("shapes") or {}).get(name)
    if not kept or shape is None:
        return live
    rows = kept.get("0", range(shape[0]))
    columns = kept.get("1", range(shape[1]))
    full = np.zeros((shape[0], shape[1], *live.shape[2:]), dtype=bool)
    if columns and isinstance(columns[0], list):
        _spread_groups(full, live, list(rows), columns)
    else:
        full[np.ix_(list(rows), list(columns))] = live
    return full


def _spread_groups(full: Mask, live: Mask, rows: list[int], columns: list[list[int]]) -> None:
    """Each group that stays has channels of its own; narrow groups are padded with zeros at the end."""
    in_group = max(1, len(rows) // len(columns))
    for position, row in enumerate(rows):
        mine = columns[position // in_group]
        full[row, mine] = live[position, : len(mine)]


def describe(live: Mask) -> str:
    """``19 of 50 filters and 60 of 500 columns are left``."""
    matrix = live.reshape(live.shape[0], -1)
    rows, columns = int(matrix.any(1).sum()), int(matrix.any(0).sum())
    return f"{rows} of {matrix.shape[0]} filters and {columns} of {matrix.shape[1]} columns are left"
