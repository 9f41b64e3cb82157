"""``bench --compare``: the earlier file, read and held against this machine before anything is timed."""

from __future__ import annotations

from pathlib import Path

from sslcli.bench import Change, Comparison, compare_with_old, read_comparison, require_same_host
from sslcli.bench.host import this_host
from sslcli.errors import UsageError
from sslcli.options.bench import BenchOptions
from sslcli.pipeline.results import BenchChange, Earlier


def read_earlier(options: BenchOptions) -> Comparison:
    """The comparison in the file that ``options.compare`` names.

    Raises:
        InputError: it cannot be read, or is no comparison.
        UsageError: it was made on other hardware and that is not allowed.
    """
    old = read_comparison(Path(options.compare or ""))
    if not options.allow_host_mismatch:
        require_same_host(this_host(options.providers), old.host)
    return old


def since(
    new: Comparison, old: Comparison, options: BenchOptions
) -> tuple[Earlier | None, UsageError | None]:
    """What changed since ``old``; or why the two cannot be compared, told after the new numbers."""
    try:
        changes, notes = compare_with_old(new, old, allow_host_mismatch=options.allow_host_mismatch)
    except UsageError as error:
        return None, error
    return Earlier(options.compare or "", old.created, [_change(change) for change in changes], notes), None


def _change(change: Change) -> BenchChange:
    row, speed, old = change.row, change.speed, change.old_ratio
    return BenchChange(
        name=row.subject,
        layer=row.layer,
        provider=row.provider,
        kind=row.kind,
        median_ms=row.latency.median_ms,
        old_ms=change.old_ms,
        times_faster=speed.value,
        times_faster_low=speed.low,
        times_faster_high=speed.high,
        speedup=None if row.ratio is None else row.ratio.value,
        old_speedup=None if old is None else old.value,
    )
