"""Matplotlib figures as SVG that stands inside a page and takes the page's colours."""

from __future__ import annotations

import contextlib
import html
import importlib
import io
import re
from collections.abc import Iterator
from typing import Any

# Matplotlib draws with these, the page replaces them by its own colours, light or dark.
INK = "#010101"
FAINT = "#020202"
SERIES = ("#030303", "#040404", "#050505", "#060606", "#070707")
_SMALL_PT = 300
_VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)},
}
_SETTINGS = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "figure.facecolor": "none",
    "font.size": 10.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "sslcli",
    "svg.image_inline": True,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
}


@contextlib.contextmanager
def drawing(width_in: float, height_in: float) -> Iterator[Any]:
    """Yield a Matplotlib figure of that size in inches, to be drawn on in the page's look.

    Never through pyplot, and Matplotlib's settings are put back afterwards.
    """
    rc_context = importlib.import_module("matplotlib").rc_context
    figure = importlib.import_module("matplotlib.figure").Figure
    with rc_context(_SETTINGS):
        yield figure(figsize=(width_in, height_in), layout="constrained")


def settle(figure: Any) -> None:
    """Lay a figure out for good.

    The room for tick labels is taken from the ticks before the layout, which then may choose others, with
    longer labels; so those that it chose are kept, and it is laid out again.
    """
    fixed = importlib.import_module("matplotlib.ticker").FixedLocator
    figure.draw_without_rendering()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(fixed(axis.get_majorticklocs()))
    figure.draw_without_rendering()


def to_svg(figure: Any, name: str, alt: str) -> str:
    """``figure`` as an ``<svg>`` element; call it inside :func:`drawing`.

    Args:
        figure: what was drawn on.
        name: prefix of its ids, unique in the page.
        alt: what it shows, for people who do not see it.
    """
    settle(figure)
    canvas = importlib.import_module("matplotlib.backends.backend_svg").FigureCanvasSVG(figure)
    stream = io.StringIO()
    canvas.print_svg(stream, metadata={"Date": None, "Creator": None})
    return _embed(stream.getvalue(), name, alt)


def _embed(text: str, name: str, alt: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = text.replace('xlink:href="data:', 'href="data:')
    text = re.sub(r"'?DejaVu Sans'?[^;\"]*", "system-ui, sans-serif", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0]
    label = html.escape(alt)
    # points to CSS pixels; only charts may grow with the page, or small pictures had the larger text
    growth = 1.4 if float(width) > _SMALL_PT else 1.05
    widest = f'style="max-width: {growth * float(width):.0f}px"'
    head = (
        f'<svg viewBox="0 0 {width} {height}" {widest} role="img" aria-label="{label}"><title>{label}</title>'
    )
    return re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
