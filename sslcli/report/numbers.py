"""Numbers as people read them. MACs are multiply-accumulates; FLOP = 2 MAC; sizes are decimal."""

from __future__ import annotations


def count(value: float) -> str:
    """``1.23 M``; counts below 10,000 as they are."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 1e3:.3g} k" if abs(value) >= 1e4 else f"{value:g}"


def per_cent(fraction: float) -> str:
    """``12.3 %`` of a fraction."""
    return f"{100 * fraction:.3g} %"


def size(size_bytes: int) -> str:
    """``1.7 MB``."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"


def milliseconds(value: float) -> str:
    """``0.0123 ms`` to four significant digits, without an exponent."""
    digits = 4 if value < 1 else 3 if value < 10 else 2 if value < 100 else 1
    return f"{value:.{digits}f} ms"


def speedup(value: float) -> str:
    """``2.31x``."""
    return f"{value:.2f}x" if value < 100 else f"{value:.0f}x"


def interval(low: float, high: float) -> str:
    """``2.25-2.38``, the ends of an interval of a speedup."""
    return f"{low:.2f}-{high:.2f}"


def duration(seconds: float) -> str:
    """``45 s``, ``3m 05s`` or ``2h 07m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def metric(name: str, value: float) -> str:
    """Accuracies and errors in per cent, anything else to four digits."""
    return f"{100 * value:.2f} %" if name in ("accuracy", "error") else f"{value:.4f}"
