import base64
import io
import re
import sys

import numpy as np
import pytest

from sslcli.report import plots

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


def test_the_same_figure_is_the_same_text():
    assert charts() == charts()


def test_matplotlibs_settings_are_put_back_and_pyplot_is_not_used():
    # past rcParams' own getter, which starts pyplot to find a backend
    before = [dict.__getitem__(mpl.rcParams, name) for name in sorted(mpl.rcParams)]
    loaded = "matplotlib.pyplot" in sys.modules
    charts()
    assert [dict.__getitem__(mpl.rcParams, name) for name in sorted(mpl.rcParams)] == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded
