"""Plans: what pruning kept of a network, as data, and bringing another instance to that shape."""

from sslcli.plan.apply import apply_plan
from sslcli.plan.plan import Plan, plan_schema

__all__ = ["Plan", "apply_plan", "plan_schema"]
