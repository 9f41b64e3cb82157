"""Timings of earlier selections, kept in the user's cache folder.

One JSON file a question: this region, these candidates, this machine, these versions. A file that cannot be
read counts as absent, and one that cannot be written is not missed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sslcli
from sslcli.bench.host import this_host
from sslcli.bench.inputs import RunSettings
from sslcli.errors import SslcliError
from sslcli.files import atomic_output

_SCHEMA = 2


@dataclass(frozen=True)
class Timed:
    """One candidate's measurement.

    Attributes:
        median_ms: median latency of the region in milliseconds.
        speedup: over the dense region.
        low: lower end of the speedup's 95 % interval.
        high: upper end.
    """

    median_ms: float
    speedup: float
    low: float
    high: float


Timings = Mapping[str, Timed]


def cache_folder() -> Path:
    """``SSLCLI_CACHE_DIR``, else ``sslcli`` in the user's cache folder."""
    named = os.environ.get("SSLCLI_CACHE_DIR")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "sslcli"


def question(region: str, candidates: Sequence[str], settings: RunSettings) -> str:
    """The name under which the timings of ``candidates`` in ``region`` are kept."""
    host = dataclasses.asdict(this_host([settings.provider]))
    asked = {
        "schema": _SCHEMA,
        "sslcli": sslcli.__version__,
        "region": region,
        "candidates": list(candidates),
        "host": {key: host[key] for key in ("machine", "cpu_model", "affinity", "gpu", "versions")},
        "run": [settings.provider, settings.threads, settings.batch_size, settings.tf32, settings.budget_s],
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def recall(folder: Path, key: str) -> dict[str, Timed] | None:
    """Timings kept under ``key``; None where there are none."""
    try:
        kept = json.loads(_path(folder, key).read_text())
        return {name: Timed(**values) for name, values in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def remember(folder: Path, key: str, timings: Timings) -> None:
    """Keep timings under ``key``."""
    path = _path(folder, key)
    text = json.dumps({name: dataclasses.asdict(timed) for name, timed in timings.items()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(path) as temporary:
            temporary.write_text(text)
    except (OSError, SslcliError):
        return


def _path(folder: Path, key: str) -> Path:
    return folder / "timings" / f"{key}.json"
