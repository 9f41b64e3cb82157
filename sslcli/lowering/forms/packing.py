"""From live rows and columns to the small dense problems that the column forms compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sslcli.lowering.fragments import Builder, Fragment
from sslcli.lowering.patterns import Indices, Part, live_filters, parts
from sslcli.lowering.sites import ConvSite, Floats

Restore = Literal["gather", "pad"]


@dataclass(frozen=True)
class Packed:
    """One group's problem: output rows = weight x columns + bias.

    Attributes:
        weight: (R, L).
        bias: (R,).
        columns: (L, 1 + rank), each (channel, *tap); columns that only pad repeat one and weigh zero.
        filters: which filter of the site each row is; -1 for rows that only pad.
    """

    weight: Floats
    bias: Floats
    columns: Indices
    filters: tuple[int, ...]


_MOST_SAMPLES = 8

Body = Callable[[Builder, ConvSite, Packed], str]


def pack(
    site: ConvSite, *, restore: Restore = "gather", rows_of: int = 1, columns_of: int = 1
) -> list[Packed]:
    """The packed problems of all groups that compute anything.

    Args:
        site: the convolution.
        restore: ``pad`` computes dead rows with the live ones, every row of the site in order; ``gather``
            computes live rows and one dead row for each distinct bias among the dead, or a single one where
            there are too many, whose bias is added later.
        rows_of: row counts are rounded up to a multiple of this by rows of zeros.
        columns_of: the same for columns.
    """
    found = parts(site)
    per_group = site.filters // site.groups
    if restore == "pad":
        filters = [list(range(g * per_group, (g + 1) * per_group)) for g in range(site.groups)]
    else:
        filters = [part.rows.tolist() for part in found]
        host = next((g for g, part in enumerate(found) if len(part.rows)), 0)
        filters[host] = filters[host] + dead_samples(site)
    return [
        _packed(site, part, rows, rows_of, columns_of)
        for part, rows in zip(found, filters, strict=True)
        if rows
    ]


def packed_form(
    site: ConvSite, body: Body, *, restore: Restore = "gather", rows_of: int = 1, columns_of: int = 1
) -> Fragment:
    """A fragment that runs ``body`` for each group, joins the rows and puts every filter in its place."""
    builder = Builder(site.name, (site.input, site.output))
    problems = pack(site, restore=restore, rows_of=rows_of, columns_of=columns_of)
    pieces = [body(builder, site, problem) for problem in problems]
    joined = pieces[0] if len(pieces) == 1 else builder.node("Concat", pieces, {"axis": 1})
    restore_rows(builder, site, joined, [filter_ for problem in problems for filter_ in problem.filters])
    return builder.finish(site.output)


def restore_rows(builder: Builder, site: ConvSite, source: str, computed: Sequence[int]) -> None:
    """Put every filter of the site in its place: one Gather, or none where all are computed in order.

    A dead filter is read from a computed dead row of the same bias; where there is none, from any dead row,
    and an Add makes up for the difference.
    """
    if list(computed) == list(range(site.filters)):
        return
    place = {filter_: row for row, filter_ in enumerate(computed) if filter_ >= 0}
    live = live_filters(site)
    dead = [filter_ for filter_ in place if not live[filter_]]
    stand_in = {float(site.bias[filter_]): filter_ for filter_ in dead}
    sources = [
        f if f in place else stand_in.get(float(site.bias[f]), dead[0] if dead else -1)
        for f in range(site.filters)
    ]
    restored = builder.gather(source, np.array([place[f] for f in sources], np.int64), axis=1)
    missing = site.bias - site.bias[sources]
    missing[live] = 0.0
    if missing.any():
        shape = (site.filters, *[1] * site.rank)
        builder.node("Add", [restored, builder.constant(missing.reshape(shape), "bias")])


def dead_samples(site: ConvSite) -> list[int]:
    """One dead filter for each distinct bias among the dead; the first dead one where there are too many."""
    dead = np.flatnonzero(~live_filters(site))
    _, first = np.unique(site.bias[dead], return_index=True)
    found = [int(filter_) for filter_ in dead[np.sort(first)]]
    return found if len(found) <= _MOST_SAMPLES else found[:1]


def _packed(site: ConvSite, part: Part, filters: list[int], rows_of: int, columns_of: int) -> Packed:
    columns = part.columns
    if not len(columns):  # nothing is read: one column of weight zero keeps the shape
        columns = np.zeros((1, 1 + site.rank), np.int64)
    height, width = _up(len(filters), rows_of), _up(len(columns), columns_of)
    weight = np.zeros((height, width), np.float32)
    row = {filter_: index for index, filter_ in enumerate(filters)}
    weight[[row[int(f)] for f in part.rows], : part.weight.shape[1]] = part.weight
    bias = np.zeros(height, np.float32)
    bias[: len(filters)] = site.bias[filters]
    padded = np.concatenate([columns, np.repeat(columns[-1:], width - len(columns), axis=0)])
    return Packed(weight, bias, padded, (*filters, *[-1] * (height - len(filters))))


def _up(count: int, block: int) -> int:
    return -(-count // block) * block


def chunks(problem: Packed, size: int | None, block: int = 16) -> list[Packed]:
    """Cut a problem along its columns into near-equal chunks of about ``size``; the sum of all is the whole.

    Columns go tap by tap then, so that a chunk needs few taps. Only the first chunk carries the bias. Sizes
    are multiples of ``block`` save the last.
    """
    count = len(problem.columns)
    pieces = 1 if size is None else max(1, round(count / size))
    if pieces == 1:
        return [problem]
    order = np.lexsort((problem.columns[:, 0], *problem.columns[:, :0:-1].T))
    step = _up(-(-count // pieces), block)
    return [
        Packed(
            problem.weight[:, order[start : start + step]],
            problem.bias if start == 0 else np.zeros_like(problem.bias),
            problem.columns[order[start : start + step]],
            problem.filters,
        )
        for start in range(0, count, step)
    ]


def sum_of(builder: Builder, terms: Sequence[str]) -> str:
    """Add terms one after the other, as runtimes fuse into the convolution that made the term."""
    total = terms[0]
    for term in terms[1:]:
        total = builder.node("Add", [total, term])
    return total
