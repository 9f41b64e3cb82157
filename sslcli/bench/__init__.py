"""Timing of ONNX models, layer by layer and whole, on the provider that will serve them."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType

from sslcli.bench.comparison import compare
from sslcli.bench.history import Change, compare_with_old, read_comparison, require_same_host
from sslcli.bench.inputs import ModelSource, RunSettings
from sslcli.bench.public import bench as _function
from sslcli.bench.public import require_gate
from sslcli.bench.results import BenchedModel, Comparison, Row
from sslcli.bench.runner import Samples, Subject, Timing, time_models, time_subjects
from sslcli.bench.statistics import Latency, Ratio, paired_ratio
from sslcli.bench.tables import to_csv, to_markdown

__all__ = [
    "BenchedModel",
    "Change",
    "Comparison",
    "Latency",
    "ModelSource",
    "Ratio",
    "Row",
    "RunSettings",
    "Samples",
    "Subject",
    "Timing",
    "bench",
    "compare",
    "compare_with_old",
    "paired_ratio",
    "read_comparison",
    "require_gate",
    "require_same_host",
    "time_models",
    "time_subjects",
    "to_csv",
    "to_markdown",
]


# ``sslcli.bench`` is this package and the public function at once: calling the package calls ``bench``.
# Otherwise which of the two the name means would depend on what was imported first.
class _CallablePackage(ModuleType):
    __call__ = staticmethod(_function)


# What help() and documentation show; without it the first argument is taken for the package itself.
__signature__ = inspect.signature(_function)
__doc__ = _function.__doc__ or ""
sys.modules[__name__].__class__ = _CallablePackage
bench = sys.modules[__name__]
