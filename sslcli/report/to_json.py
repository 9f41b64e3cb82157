"""Any result as plain values under a versioned schema."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslcli.errors import SslcliError
from sslcli.pipeline import results
from sslcli.report.runs import ReportResult

# Result -> its schema, but for a command's own name, which ``train`` and ``regularize`` carry themselves.
SCHEMAS = {
    results.TrainingResult: "sslcli/{command}/1",
    results.PruneResult: "sslcli/prune/1",
    results.ExportResult: "sslcli/export/1",
    results.BenchResult: "sslcli/bench/1",
    results.InspectResult: "sslcli/inspect/1",
    results.EvaluateResult: "sslcli/evaluate/1",
    results.ApplyPlanResult: "sslcli/apply-plan/1",
    results.Planned: "sslcli/planned/1",
    results.RunResult: "sslcli/run/1",
    results.Diagnosis: "sslcli/doctor/1",
    results.RecipeText: "sslcli/recipe/1",
    ReportResult: "sslcli/report/1",
}


def to_json(result: object) -> dict[str, Any]:
    """``result`` as dicts, lists, text and finite numbers; what is not finite is null."""
    plain = _plain(result)
    schema = SCHEMAS[type(result)].format(**plain) if type(result) in SCHEMAS else "sslcli/result/1"
    if isinstance(result, results.EvaluateResult):
        plain |= result.metrics
    return {"schema": schema, **plain}


def _plain(value: object) -> Any:
    if isinstance(value, SslcliError):
        return {"exit_code": value.exit_code, "what": value.what, "hint": value.hint}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a result holds a {type(value).__name__}, which JSON has no form for")
