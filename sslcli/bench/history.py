"""A comparison set against an earlier one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sslcli.bench.host import Host, hardware_differences
from sslcli.bench.results import Comparison, Row
from sslcli.bench.statistics import Ratio, unpaired_ratio
from sslcli.errors import InputError, UsageError
from sslcli.files import read_bounded

_MAX_BYTES = 256 << 20  # with the raw samples of every layer


@dataclass(frozen=True)
class Change:
    """One row then and now.

    Attributes:
        row: the row of the new comparison.
        old_ms: median then.
        speed: how many times faster than then; measured apart, so the machine's own drift is in it.
        old_ratio: speedup over the base then; None for the base. It is free of that drift.
    """

    row: Row
    old_ms: float
    speed: Ratio
    old_ratio: Ratio | None


def read_comparison(path: Path) -> Comparison:
    """Read a comparison from a file that ``Comparison.to_json`` or ``sslcli bench --json`` wrote.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        text = read_bounded(path, _MAX_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(
            f"the earlier bench {path} cannot be read ({error})", "name a file that bench --json wrote"
        ) from error
    try:
        return Comparison.from_json(text)
    except InputError as error:
        raise InputError(f"{path}: {error.what}", error.hint) from error


def require_same_host(now: Host, then: Host) -> None:
    """Raise UsageError if two comparisons ran on different hardware."""
    differing = hardware_differences(now, then)
    if differing:
        raise UsageError(
            f"the earlier bench ran on another machine ({'; '.join(differing)})",
            "measure it again here, or give --allow-host-mismatch",
        )


def compare_with_old(
    new: Comparison, old: Comparison, *, allow_host_mismatch: bool = False
) -> tuple[list[Change], list[str]]:
    """Match the rows of two comparisons by provider, threads, batch, layer, model and kind.

    Returns:
        A change for each row that both have, in the order of ``new``; and notes on what differs around them.

    Raises:
        UsageError: they ran on different hardware and that was not allowed, or share no row.
    """
    if not allow_host_mismatch:
        require_same_host(new.host, old.host)
    then = {_key(row): row for row in old.rows}
    changes = [_change(row, then[_key(row)]) for row in new.rows if _key(row) in then]
    if not changes:
        raise UsageError(
            "the earlier bench has no row in common with this one",
            "use the same models' names, providers, threads and batch size",
        )
    notes = [f"another machine: {difference}" for difference in hardware_differences(new.host, old.host)]
    for name, version in new.host.versions.items():
        if old.host.versions.get(name) != version:
            notes.append(f"{name} was {old.host.versions.get(name)}, is {version}")
    return changes, notes


def _key(row: Row) -> tuple[object, ...]:
    return (row.provider, row.threads, row.batch_size, row.layer, row.subject, row.kind)


def _change(new: Row, old: Row) -> Change:
    speed = unpaired_ratio(old.samples(), new.samples(), rounds=(old.rounds, new.rounds))
    return Change(new, old.latency.median_ms, speed, old.ratio)
