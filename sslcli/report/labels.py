"""Names beside the points of a chart, where they cover neither one another nor a point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sslcli.report.svg import FAINT, settle

SIZE = 10.5  # points
_POINT = 4.5  # half the side of a point with some room, in points
_DISTANCES = (7.0, 14.0, 22.0, 32.0, 44.0, 58.0)
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


class Rectangle(NamedTuple):
    """A place on the chart, in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: Rectangle) -> bool:
        """Whether the two share an area."""
        across = self.left < other.right and other.left < self.right
        return across and self.bottom < other.top and other.bottom < self.top

    def within(self, other: Rectangle) -> bool:
        """Whether it lies in the other as a whole."""
        across = self.left >= other.left and self.right <= other.right
        return across and self.bottom >= other.bottom and self.top <= other.top


def place_labels(figure: Any, axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Name points (x, y, label): as near as there is room inside the axes, with a line where that is far."""
    settle(figure)  # so that data have their pixels
    dot = figure.dpi / 72
    frame = Rectangle(*axes.get_window_extent().extents)
    centres = [tuple(axes.transData.transform((x, y))) for x, y, _ in points]
    taken = [_box(x, y, _POINT * dot, _POINT * dot) for x, y in centres]
    for (x, y, label), centre in zip(points, centres, strict=True):
        text = axes.annotate(
            label, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=SIZE, ha="center", va="center"
        )
        text.set_in_layout(False)  # the axes stay where they are now
        extent = text.get_window_extent()
        half = extent.width / 2, extent.height / 2
        found = list(_candidates(centre, half, dot))
        free = (box for box in found if box.within(frame) and not any(map(box.overlaps, taken)))
        box = next(free, found[0])
        taken.append(box)
        _move(axes, text, box, centre, (x, y), dot)


def _candidates(centre: tuple[float, float], half: tuple[float, float], dot: float) -> Iterator[Rectangle]:
    """Places for a label of that size around a point, the nearest first."""
    for distance in _DISTANCES:
        for right, up in _DIRECTIONS:
            x = centre[0] + right * (distance * dot + half[0])
            y = centre[1] + up * (distance * dot + half[1])
            yield _box(x, y, *half)


def _box(x: float, y: float, across: float, up: float) -> Rectangle:
    return Rectangle(x - across, y - up, x + across, y + up)


def _move(
    axes: Any,
    text: Any,
    box: Rectangle,
    centre: tuple[float, float],
    point: tuple[float, float],
    dot: float,
) -> None:
    """Put a label into its place; a line leads to one that is not beside its point."""
    x = (box.left + box.right) / 2 - centre[0]
    y = (box.bottom + box.top) / 2 - centre[1]
    text.set_position((x / dot, y / dot))
    gap = max(abs(x) - (box.right - box.left) / 2, abs(y) - (box.top - box.bottom) / 2)
    if gap > (_DISTANCES[0] + 1) * dot:
        line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        leader = axes.annotate(
            "", point, xytext=(x / dot, y / dot), textcoords="offset points", arrowprops=line, zorder=1
        )
        leader.set_in_layout(False)
