"""What a comparison found, as data; JSON in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pydantic

from sslcli.bench.host import Host
from sslcli.bench.inputs import Array
from sslcli.bench.runner import ClockName
from sslcli.bench.statistics import Latency, Ratio
from sslcli.errors import InputError
from sslcli.options.common import Provider

SCHEMA = "sslcli/comparison/1"
_MOST_NS = 1 << 63
Kind = Literal["onnx", "csr", "csr product"]
Incomparable = Literal["not finite", "other shapes"]


@dataclass(frozen=True)
class Row:
    """One subject under one setting.

    Attributes:
        provider: where it ran.
        threads: intra-op threads.
        batch_size: items in one run.
        layer: the layer's name, None for the whole model.
        op_type: the layer's operator in the base model.
        subject: the model's label.
        kind: ``onnx``; or the same sparsity without structure, with (``csr``) or without (``csr product``)
            the lowering to columns in the timed part.
        macs: multiply-accumulates of one run as executed.
        limit: macs of the base / macs: what arithmetic alone would give.
        latency: summary of the samples.
        ratio: how many times faster than the base; None for the base itself.
        nodes: executed nodes by provider.
        clock: what samples are made of: ``cpu`` time of the one thread that ran, or ``wall`` time.
        runs_per_sample: runs that one sample is the mean of.
        samples_ns: nanoseconds per run, block by block.
        rounds: how many of the blocks each round has; empty in older files.
    """

    provider: Provider
    threads: int
    batch_size: int
    layer: str | None
    op_type: str | None
    subject: str
    kind: Kind
    macs: int | None
    limit: float | None
    latency: Latency
    ratio: Ratio | None
    nodes: Mapping[str, int]
    clock: ClockName
    runs_per_sample: int
    samples_ns: tuple[tuple[int, ...], ...]
    rounds: tuple[int, ...] = ()

    def samples(self) -> Array:
        """The samples as an array, (blocks, samples in a block)."""
        return np.array(self.samples_ns, dtype=np.float64)


@dataclass(frozen=True)
class BenchedModel:
    """One of the models compared.

    Attributes:
        label: how rows name it.
        size_bytes: size of its file, external weights included.
        sha256: digest of its file.
        difference: largest absolute difference of its outputs to the base's over the base's largest
            magnitude, TF32 off, on any provider; None for the base, and where there is no such number.
        incomparable: why there is none beside the base's outputs: one holds NaN or infinity where the other
            holds a number (``not finite``), or their number or shapes differ (``other shapes``).
    """

    label: str
    size_bytes: int
    sha256: str
    difference: float | None = None
    incomparable: Incomparable | None = None


@dataclass(frozen=True)
class Protocol:
    """How the samples were taken.

    Attributes:
        budget_s: seconds asked for in all.
        warmup: untimed runs of each subject.
        seed: seed of inputs, orders and resampling.
        tf32: whether CUDA might round float32 factors to TF32 in the timed runs.
        others_load: share of the processors' time that other processes took meanwhile, None if unknown.
        spinning: what worker threads do between runs.
    """

    budget_s: float
    warmup: int
    seed: int
    tf32: bool
    others_load: float | None
    spinning: str = "during runs, stopped with them"


@dataclass(frozen=True)
class Comparison:
    """A base and other models, timed against each other on one host.

    Attributes:
        host: the machine and the versions.
        protocol: how samples were taken.
        models: the base first.
        rows: whole models first, then layers in the order of the graph.
        notes: whose outputs are not the base's, what was left out and why, and whether the machine was busy.
        created: when, UTC, ISO 8601.
    """

    host: Host
    protocol: Protocol
    models: tuple[BenchedModel, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    created: str
    schema: str = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, raw samples too."""
        return asdict(self)

    def to_json(self) -> str:
        """Everything, raw samples too."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Comparison:
        """Read what ``to_json`` wrote, or what the bench command wrote around it.

        Raises:
            InputError: it is no comparison, one of another schema, or holds what no bench writes.
        """
        try:
            data = json.loads(text)
            data = data.get("comparison", data)
            schema = data["schema"]
        except (ValueError, RecursionError, KeyError, AttributeError, TypeError) as error:
            raise InputError(
                "the file is not a comparison of sslcli bench", "give one that --json wrote"
            ) from error
        if schema != SCHEMA:
            raise InputError(
                f"the comparison has schema {schema}, not {SCHEMA}", "make it again with this version"
            )
        try:
            # As JSON, where lists stand for tuples; strictly, so that no text passes for a number.
            found = pydantic.TypeAdapter(Comparison).validate_json(json.dumps(data), strict=True)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise _damaged(_place(data, first["loc"]), first["msg"]) from error
        for number, row in enumerate(found.rows):
            _require_samples(row, _place(data, ("rows", number, "samples_ns")))
        return found


def _require_samples(row: Row, where: str) -> None:
    """What ``samples`` and the statistics take for granted; raises InputError."""
    sizes = {len(block) for block in row.samples_ns}
    if len(sizes) != 1 or 0 in sizes:
        raise _damaged(where, "blocks must hold equally many samples, and one at least")
    if not all(0 < ns < _MOST_NS for block in row.samples_ns for ns in block):
        raise _damaged(where, "samples must be positive")
    if row.rounds and (min(row.rounds) < 1 or sum(row.rounds) != len(row.samples_ns)):
        raise _damaged(where, f"its rounds {list(row.rounds)} are not its {len(row.samples_ns)} blocks")


def _place(data: Any, keys: Sequence[int | str]) -> str:
    """Where in the file something is, a row with what it tells of: ``rows[2].samples_ns (a of net.onnx)``."""
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".") or "its top"
    if len(keys) < 2 or keys[0] != "rows" or not isinstance(row := data["rows"][keys[1]], dict):
        return path
    return f"{path} ({row.get('layer') or 'whole'} of {row.get('subject')})"


def _damaged(where: str, why: str) -> InputError:
    return InputError(f"the comparison is damaged at {where}: {why}", "make it again")
