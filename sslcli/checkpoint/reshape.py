"""Applying a plan that came out of a file: sizes are checked before anything is made of that size."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from sslcli.errors import PlanError
from sslcli.plan import Plan, apply_plan
from sslcli.reference import describe

_MAX_ELEMENTS = 1 << 28
_HINT = "use the file that sslcli prune wrote"


def reshaped(model: nn.Module, plan: dict[str, Any], where: str) -> nn.Module:
    """The model in the shape of the plan.

    Raises:
        PlanError: the plan is malformed or does not fit the model.
    """
    read = Plan.from_json(plan)
    try:
        _check_sizes(read, where)
        return apply_plan(model, read)
    except PlanError:
        raise
    except Exception as error:  # indices, shapes and dtypes out of a file may break it anywhere
        raise PlanError(f"the plan in {where} does not fit the model ({describe(error)})", _HINT) from error


def _check_sizes(plan: Plan, where: str) -> None:
    """Refuse what would be made of a size that the file says: added weights and the probe's inputs."""
    sizes = [*plan.added.values(), *(entry["shape"] for entry in (plan.probe or {}).get("inputs", ()))]
    if any(math.prod(size) > _MAX_ELEMENTS or min(size, default=0) < 0 for size in sizes):
        raise PlanError(f"the plan in {where} asks for a tensor of more than {_MAX_ELEMENTS} elements", _HINT)
