"""Surgery: what can go, what goes, and the proof that nothing else changed."""

from sslcli.surgery.inspect import Inspection, inspect
from sslcli.surgery.measure import Layer, layers, remaining
from sslcli.surgery.prune import PruneReport, PruneResult, prune

__all__ = [
    "Inspection",
    "Layer",
    "PruneReport",
    "PruneResult",
    "inspect",
    "layers",
    "prune",
    "remaining",
]
