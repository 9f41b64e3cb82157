"""What would be left of a network if it were pruned now."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from sslcli.graph.slots import Structure
from sslcli.surgery import remaining


def watcher(structure: Structure) -> Callable[[Mapping[str, Tensor]], dict[str, float]]:
    """A function from parameters to the fractions of MACs and parameters that pruning would leave."""
    whole = remaining(structure, structure.program.weights())
    before = {"macs": whole.macs, "params": whole.params}

    def watch(parameters: Mapping[str, Tensor]) -> dict[str, float]:
        now = remaining(structure, parameters)
        return {"macs": now.macs / max(1, before["macs"]), "params": now.params / max(1, before["params"])}

    return watch
