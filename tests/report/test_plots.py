import base64
import io
import re
import sys

import numpy as np
import pytest

from sslcli.report import figures, plots
from sslcli.report.labels import Rectangle, place_labels
from sslcli.report.svg import drawing

mpl = pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")


def picture(svg):
    [data] = re.findall(r'<image href="data:image/png;base64,([^"]+)"', svg)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


def test_the_matrix_has_a_pixel_for_every_weight():
    live = np.zeros((3, 5), dtype=bool)
    live[0, 4] = live[2, :2] = True
    pixels = picture(plots.gemm_map("m", live, alt="a matrix"))
    assert pixels.shape == (3, 5, 4)
    assert ((pixels[..., 3] == 255) == live).all()
    assert tuple(pixels[0, 4]) == plots.LIVE
    assert tuple(pixels[0, 0]) == plots.ZERO


def test_a_matrix_too_wide_for_the_screen_shows_shares():
    live = np.zeros((1, 2 * plots.LARGEST_MAP), dtype=bool)
    live[0, ::2] = True
    pixels = picture(plots.gemm_map("m", live, alt="a matrix"))
    assert pixels.shape[:2] == (1, plots.LARGEST_MAP)
    assert set(pixels[0, :, 3].tolist()) == {(255 + 45) // 2}


def test_filter_shapes_are_tiles_with_gaps():
    live = np.ones((2, 3, 3), dtype=bool)
    live[1, 0, 0] = False
    pixels = picture(plots.shape_map("s", live, alt="taps"))
    assert pixels.shape[:2] == (3, 7)
    assert pixels[:, 3, 3].tolist() == [0, 0, 0]
    assert pixels[0, 4, 3] == plots.ZERO[3]
    assert (np.delete(pixels[..., 3], 3, axis=1) == 255).sum() == 17


def charts():
    line = plots.Curve("loss", [1, 2, 3], [1.0, 0.1, 0.01])
    return {
        "curves": plots.curves("a", [line, line], x="epoch", y="loss", alt="loss falls", logarithmic=True),
        "scatter": plots.scatter("b", {"demo": [(100, 99.1, "dense"), (14, 99.2, "small")]}, alt="points"),
        "left": plots.left_bars("c", [("conv1", 12, 3)], alt="bars"),
        "speedup": plots.speedup_bars("d", [("conv1", 0.8, 0.7, 0.9, None)], alt="a < b & c"),
    }


@pytest.mark.parametrize("name", ["curves", "scatter", "left", "speedup"])
def test_charts_take_the_pages_colours_and_carry_their_words(name):
    svg = charts()[name]
    assert "var(--ink)" in svg
    assert not re.search(r"#0[0-9]0[0-9]0[0-9]\b", svg)
    assert re.search(r'^<svg viewBox="[^"]+" style="[^"]+" role="img" aria-label="[^"]+"><title>', svg)
    assert "http" not in svg
    assert "$" not in svg


def test_alt_texts_are_escaped():
    assert 'aria-label="a &lt; b &amp; c"' in charts()["speedup"]


def test_ids_begin_with_the_figures_name():
    assert {identifier[:2] for identifier in re.findall(r'\bid="([^"]+)"', charts()["left"])} == {"c-"}


def size_of(svg):
    return [float(number) for number in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()]


@pytest.mark.parametrize("shape", [(24, 24), (2, 9), (600, 24), (64, 8), (5, 600), (512, 4608)])
def test_a_matrix_is_never_larger_than_the_widest_one(shape):
    width, height = size_of(plots.gemm_map("m", np.ones(shape, dtype=bool), alt="a matrix"))
    assert 100 < width <= 72 * plots.WIDTH_IN + 1
    assert 80 < height <= 170


def test_a_square_matrix_is_no_larger_than_a_wide_one():
    square, wide = (
        size_of(plots.gemm_map("m", np.ones((24, columns), dtype=bool), alt="a matrix"))
        for columns in (24, 600)
    )
    assert square[0] < wide[0]
    assert square[1] == wide[1]


def test_the_name_of_an_axis_is_not_cut_where_the_layout_changes_the_ticks():
    line = plots.Curve("accuracy", [1, 2], [94.5, 95.75])
    svg = plots.curves("a", [line], x="epoch", y="% right, validation", alt="x")
    [left] = re.findall(r'<text[^>]* x="([-\d.]+)"[^>]*>% right, validation', svg)
    assert float(left) > 8  # the baseline of text that runs upwards, at 10.5 points


def labelled(points):
    """Where the labels of points come to lie, in pixels, and the axes."""
    with drawing(4.6, 3.3) as figure:
        axes = figure.subplots()
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o")
        place_labels(figure, axes, points)
        figure.draw_without_rendering()
        texts = [text for text in axes.texts if text.get_text()]
        boxes = [Rectangle(*text.get_window_extent().extents) for text in texts]
        return boxes, Rectangle(*axes.get_window_extent().extents)


CROWDED = [
    [(100, 98, "dense-onnx-of-the-first-run"), (100, 98, "dense-onnx"), (20, 98, "small-pt2")],
    [(50, 98.3, "small-pt2"), (51, 98.3, "sparse-pt2"), (100, 97, "dense-onnx"), (51, 98.31, "another")],
    [(10, 99, "only")],
]


@pytest.mark.parametrize("points", CROWDED, ids=["at-the-edge", "side-by-side", "one"])
def test_labels_lie_inside_the_axes_and_apart(points):
    boxes, frame = labelled(points)
    assert len(boxes) == len(points)
    for number, box in enumerate(boxes):
        assert box.left >= frame.left - 1
        assert box.right <= frame.right + 1
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_the_legend_of_runs_lies_outside_the_grid():
    points = {name: [(100, 99, "dense"), (20, 98, "small")] for name in ("one", "two")}
    svg = plots.scatter("s", points, alt="runs")
    assert svg.index('id="s-legend_1"') < len(svg)
    assert svg.count(">dense</text>") == 1  # a point that the runs share is named once
    axes = svg[svg.index('id="s-axes_1"') : svg.index('id="s-legend_1"')]
    assert ">two</text>" not in axes


def test_the_same_figure_is_the_same_text():
    assert charts() == charts()


def test_matplotlibs_settings_are_put_back_and_pyplot_is_not_used():
    # past rcParams' own getter, which starts pyplot to find a backend
    before = [dict.__getitem__(mpl.rcParams, name) for name in sorted(mpl.rcParams)]
    loaded = "matplotlib.pyplot" in sys.modules
    charts()
    assert [dict.__getitem__(mpl.rcParams, name) for name in sorted(mpl.rcParams)] == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_alternative_texts_of_shares_have_their_unit():
    records = [{"epoch": e, "metrics": {"accuracy": 0.9475 + e / 100}, "loss": 1.0 / (e + 1)} for e in (0, 1)]
    texts = [figure.caption for figure in figures.training_curves("dense", records, "run1")]
    assert "accuracy of dense: accuracy from 94.75 to 95.75 %" in texts
    assert "loss of dense: loss from 1 to 0.5" in texts
