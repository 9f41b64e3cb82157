"""The figures of the page. Matplotlib is imported here alone, and never through pyplot's global state."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sslcli.report.labels import place_labels
from sslcli.report.svg import FAINT, INK, SERIES, drawing, to_svg

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Pixels = np.ndarray[Any, np.dtype[np.float64]]

WIDTH_IN = 4.6  # on a phone the page shows a chart at about 72 pixels an inch: 10 points are 10 pixels
LARGEST_MAP = 1200
LIVE = (46, 120, 190, 255)
ZERO = (128, 128, 128, 45)


@dataclass(frozen=True)
class Curve:
    """One line of a chart: a name and its points."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def curves(name: str, lines: Sequence[Curve], *, x: str, y: str, alt: str, logarithmic: bool = False) -> str:
    """A chart of lines."""
    with drawing(WIDTH_IN, 2.6) as figure:
        axes = figure.subplots()
        for line, colour in zip(lines, SERIES, strict=False):
            marker = "o" if len(line.x) < 3 else ""
            axes.plot(
                line.x, line.y, color=colour, label=line.name, linewidth=1.6, marker=marker, markersize=4
            )
        axes.set(xlabel=x, ylabel=y)
        axes.locator_params(axis="x", integer=True)
        if logarithmic and all(value > 0 for line in lines for value in line.y):
            axes.set_yscale("log")
            _plain_ticks(axes)
        if len(lines) > 1:
            axes.legend(loc="best")
        return to_svg(figure, name, alt)


def scatter(name: str, groups: Mapping[str, Sequence[tuple[float, float, str]]], *, alt: str) -> str:
    """Accuracy (per cent) over MACs (per cent of the first model): points (x, y, label) by run."""
    with drawing(WIDTH_IN, 3.3) as figure:
        axes = figure.subplots()
        for (run, points), colour in zip(groups.items(), _cycle(len(groups)), strict=True):
            across, up = [point[0] for point in points], [point[1] for point in points]
            axes.plot(across, up, color=colour, label=run, linestyle="", marker="o", markersize=6)
        axes.set(xlabel="MACs left (packed), % of the first model", ylabel="test accuracy, %")
        axes.margins(x=0.15, y=0.2)
        if len(groups) > 1:
            figure.legend(loc="outside upper left", ncols=2 if max(map(len, groups)) < 20 else 1)
        # a point that several runs share is named once
        place_labels(
            figure, axes, list(dict.fromkeys(point for points in groups.values() for point in points))
        )
        return to_svg(figure, name, alt)


def left_bars(name: str, layers: Sequence[tuple[str, float, float]], *, alt: str) -> str:
    """Per layer, its MACs and those that are left, both in per cent of the whole network."""
    with drawing(WIDTH_IN, _height(len(layers))) as figure:
        axes = figure.subplots()
        places = np.arange(len(layers))
        axes.barh(
            places, [before for _, before, _ in layers], color=FAINT, height=0.72, label="before", alpha=0.45
        )
        axes.barh(places, [after for _, _, after in layers], color=SERIES[0], height=0.4, label="left")
        _rows(axes, [layer for layer, _, _ in layers])
        axes.set_xlabel("% of the network's MACs")
        figure.legend(loc="outside upper right", ncols=2)
        return to_svg(figure, name, alt)


def speedup_bars(
    name: str, layers: Sequence[tuple[str, float, float, float, float | None]], *, alt: str
) -> str:
    """Per layer, the speedup with its interval, and a mark at what the arithmetic would give.

    Args:
        name: prefix of ids.
        layers: (layer, speedup, low, high, limit).
        alt: what the chart shows.
    """
    with drawing(WIDTH_IN, _height(len(layers))) as figure:
        axes = figure.subplots()
        for place, (_, value, low, high, limit) in enumerate(layers):
            colour = SERIES[2] if low > 1 else SERIES[1] if high < 1 else FAINT
            axes.barh(place, value, color=colour, height=0.6, alpha=0.85)
            axes.plot([low, high], [place, place], color=INK, linewidth=1.2)
            if limit is not None:
                axes.plot([limit], [place], marker="|", markersize=13, markeredgewidth=2, color=SERIES[3])
        axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        _rows(axes, [layer[0] for layer in layers])
        axes.set_xlabel("times faster than dense")
        axes.set_xlim(left=0)
        return to_svg(figure, name, alt)


def gemm_map(name: str, live: Mask, *, alt: str) -> str:
    """A convolution as the matrix that is multiplied: rows are filters, columns are (c, kh, kw)."""
    rows, columns = live.shape
    size = _map_size(rows, columns)
    with drawing(*size) as figure:
        axes = figure.subplots()
        axes.imshow(
            _coloured(_thinned(live)), extent=(0, columns, rows, 0), aspect="auto", interpolation="none"
        )
        axes.grid(visible=False)
        axes.locator_params(axis="y", nbins=3, integer=True)
        axes.locator_params(axis="x", nbins=max(2, int(1.6 * size[0])), integer=True)
        axes.set(xlabel=f"{columns} columns", ylabel=f"{rows} filters")
        return to_svg(figure, name, alt)


def shape_map(name: str, live: Mask, *, alt: str) -> str:
    """The learned filter shape: per input channel, which taps of the kernel are left.

    Args:
        name: prefix of ids.
        live: (C, kernel rows, kernel columns).
        alt: what the picture shows.
    """
    channels, height, width = live.shape
    across = min(channels, max(1, int(np.ceil(np.sqrt(channels * 3)))))
    down = -(-channels // across)
    sheet = np.full((down * (height + 1) - 1, across * (width + 1) - 1), np.nan)
    for channel in range(channels):
        top, left = channel // across * (height + 1), channel % across * (width + 1)
        sheet[top : top + height, left : left + width] = live[channel]
    size = min(WIDTH_IN, max(1.0, 0.09 * sheet.shape[1]), 2.5 * sheet.shape[1] / sheet.shape[0])
    with drawing(size, size * sheet.shape[0] / sheet.shape[1]) as figure:
        axes = figure.subplots()
        axes.imshow(_coloured(sheet), interpolation="none")
        axes.axis("off")
        return to_svg(figure, name, alt)


def _map_size(rows: int, columns: int) -> tuple[float, float]:
    """Width and height in inches: weights are squares while the map stays within bounds, then flatter."""
    return _within(0.9 + 0.09 * columns, 1.7, WIDTH_IN), _within(0.6 + 0.09 * rows, 1.3, 2.3)


def _within(value: float, least: float, most: float) -> float:
    return max(least, min(most, value))


def _coloured(shares: Pixels) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Blue where all is left, a grey that suits light and dark pages where nothing is; NaN is nothing."""
    share = np.nan_to_num(shares)[..., None]
    colours = share * np.array(LIVE) + (1 - share) * np.array(ZERO)
    colours[np.isnan(shares)] = 0
    return np.asarray(colours.round(), dtype=np.uint8)


def _thinned(
    live: Mask,
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The map with at most LARGEST_MAP pixels a side; a pixel is then the share that is left."""
    pixels: Pixels = live.astype(np.float64)
    for axis in (0, 1):
        size = pixels.shape[axis]
        if size > LARGEST_MAP:
            starts = np.linspace(0, size, LARGEST_MAP, endpoint=False).astype(int)
            ends = np.append(starts[1:], size)
            shape = (-1, 1) if axis == 0 else (1, -1)
            pixels = np.add.reduceat(pixels, starts, axis=axis) / (ends - starts).reshape(shape)
    return pixels


def _plain_ticks(axes: Any) -> None:
    """Powers of ten are written with mathematical markup by default, which the page does not typeset."""
    ticker = importlib.import_module("matplotlib.ticker")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def _rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def _height(rows: int) -> float:
    return 0.9 + 0.27 * rows


def _cycle(count: int) -> list[str]:
    return [SERIES[number % len(SERIES)] for number in range(count)]
