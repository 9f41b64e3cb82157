"""The lowerings by name: each a pure function from a site to a fragment, or None where it does not apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from sslcli.lowering.forms.compact import compact
from sslcli.lowering.forms.flat import as_2d, dense
from sslcli.lowering.forms.im2col import im2col
from sslcli.lowering.forms.linear import compact_linear
from sslcli.lowering.forms.per_tap import per_tap
from sslcli.lowering.forms.row_shift import row_shift
from sslcli.lowering.forms.separate import separate
from sslcli.lowering.forms.shift import shift
from sslcli.lowering.fragments import Fragment
from sslcli.lowering.sites import ConvSite, LinearSite, Site

_shift = partial(shift, rows_of=16, columns_of=16)
_row_shift = partial(row_shift, rows_of=16, columns_of=16)

# The number in a name is the block that counts are rounded to, the number of clusters, or the columns that
# are worked on at a time; ``pad`` computes dead filters where the others copy them from one.
CONV_FORMS: Mapping[str, Callable[[ConvSite], Fragment | None]] = {
    "compact": compact,
    "compact-8": partial(compact, block=8),
    "compact-16": partial(compact, block=16),
    "separate": separate,
    "separate-2": partial(separate, clusters=2),
    "separate-4": partial(separate, clusters=4),
    "shift": _shift,
    "shift-pad": partial(_shift, restore="pad"),
    "shift-128": partial(_shift, chunk=128),
    "shift-192-pad": partial(_shift, restore="pad", chunk=192),
    "row-shift": _row_shift,
    "row-shift-128": partial(_row_shift, chunk=128),
    "row-shift-192-pad": partial(_row_shift, restore="pad", chunk=192),
    "per-tap": per_tap,
    "im2col": im2col,
    "flat": partial(as_2d, dense),
    "flat-compact": partial(as_2d, partial(compact, block=16)),
    "flat-shift": partial(as_2d, _shift),
}
LINEAR_FORMS: Mapping[str, Callable[[LinearSite], Fragment | None]] = {
    "compact": compact_linear,
    "compact-columns": partial(compact_linear, restore_rows=False),
}


def candidates(site: Site) -> dict[str, Fragment]:
    """Every form that applies to a site, by name; identical fragments only once."""
    if isinstance(site, ConvSite):
        made = {name: form(site) for name, form in CONV_FORMS.items()}
    else:
        made = {name: form(site) for name, form in LINEAR_FORMS.items()}
    found: dict[str, Fragment] = {}
    seen: set[bytes] = set()
    for name, fragment in made.items():
        if fragment is not None and (key := _identity(fragment)) not in seen:
            seen.add(key)
            found[name] = fragment
    return found


def candidate(site: Site, name: str) -> Fragment | None:
    """One form by name; None where it does not apply to the site."""
    if isinstance(site, ConvSite):
        return CONV_FORMS[name](site) if name in CONV_FORMS else None
    return LINEAR_FORMS[name](site) if name in LINEAR_FORMS else None


def names() -> list[str]:
    """What ``--lower`` accepts beside ``auto`` and ``dense``."""
    return list(dict.fromkeys([*CONV_FORMS, *LINEAR_FORMS]))


def _identity(fragment: Fragment) -> bytes:
    parts = [node.SerializeToString() for node in fragment.nodes]
    parts += [name.encode() + values.tobytes() for name, values in fragment.constants.items()]
    return b"".join(parts)
