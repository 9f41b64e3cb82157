"""Look at a network: its layers, what is zero in them, what pruning would leave, and why the rest stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from sslcli.graph.normalise import normalise
from sslcli.graph.ops import where
from sslcli.graph.slots import analyse
from sslcli.graph.trace import trace
from sslcli.surgery.cut import Remaining, count
from sslcli.surgery.measure import GroupSummary, Layer, group_table, layers, packed_macs, remaining


@dataclass(frozen=True)
class Inspection:
    """What ``inspect`` found.

    Attributes:
        layers: every layer with a weight of its own, at its present weights.
        groups: every group set, with the number of zero groups.
        macs: multiply-accumulates of one sample.
        macs_packed: with layers counted as live rows x live columns.
        params: numbers in parameters.
        remaining: what pruning now would leave.
        unknown: ops that no rule knows, with their layers; their operands stay whole.
        notes: what the trace says of the model.
    """

    layers: tuple[Layer, ...]
    groups: tuple[GroupSummary, ...]
    macs: int
    macs_packed: int
    params: int
    remaining: Remaining
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def inspect(model: nn.Module, example: Any) -> Inspection:
    """Inspect a model on an example of its inputs; the model is left as it was."""
    program = normalise(trace(model, example))
    structure = analyse(program)
    whole = count(None, structure)
    return Inspection(
        layers=tuple(layers(structure)),
        groups=tuple(group_table(structure)),
        macs=whole.macs,
        macs_packed=packed_macs(structure),
        params=whole.params,
        remaining=remaining(structure, program.weights()),
        unknown=tuple(dict.fromkeys(where(node) for node in structure.unknown if node.all_input_nodes)),
        notes=program.notes,
    )
