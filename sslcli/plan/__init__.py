"""Plans: what pruning kept of a network, as data, and how to bring another instance of its class to that shape."""

from sslcli.plan.apply import apply_plan
from sslcli.plan.plan import Plan

__all__ = ["Plan", "apply_plan"]
