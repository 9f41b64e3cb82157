"""The page in a real browser, at the width of a phone and of a desk, in light and dark."""

import html
import json
import re
import shutil
import subprocess

import pytest

pytest.importorskip("matplotlib")

from sslcli.report.html import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")

# writes into the title what the browser made of the page
PROBE = """
<script>
addEventListener("load", async () => {
  const pictures = [...document.querySelectorAll("image")].map(picture => new Promise(done => {
    const image = new Image();
    image.onload = () => done(image.naturalWidth > 0);
    image.onerror = () => done(false);
    image.src = picture.href.baseVal;
  }));
  const drawn = await Promise.all(pictures);
  const widths = svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  top.document.title = JSON.stringify({
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    pictures: drawn,
    text: Math.min(...[...document.querySelectorAll("figure svg text, .network text")].map(
      text => parseFloat(getComputedStyle(text).fontSize) * widths(text.ownerSVGElement))),
    cut: [...document.querySelectorAll(".scroll")]
      .filter(frame => frame.scrollWidth > frame.clientWidth).length,
    hints: [...document.querySelectorAll(".hint")].filter(hint => hint.getClientRects().length).length,
    shadows: [...document.querySelectorAll(".scroll")].filter(frame =>
      getComputedStyle(frame).backgroundAttachment == "local, local, scroll, scroll").length,
    frames: document.querySelectorAll(".scroll").length,
    blocks: [...document.querySelectorAll("figure")].filter(figure => figure.querySelector("image"))
      .filter(figure => !figure.parentElement.closest("figure"))
      .map(figure => figure.querySelectorAll("image").length),
    charts: [...document.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect().width),
    background: getComputedStyle(document.body).backgroundColor,
  });
});
</script>
"""

# A browser's window cannot be as narrow as a phone, a frame in it can. The frame's text stands in the page:
# a frame of another file would be loaded by another process, for which --dump-dom does not wait.
FRAME = """
<title></title>
<iframe srcdoc="{page}" style="width: {width}px; height: 1600px; border: 0"></iframe>
"""


def seen(page, tmp_path, width, *flags):
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(page=html.escape(page.read_text() + PROBE), width=width))
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={max(width, 500)},1600",
        "--virtual-time-budget=5000", "--dump-dom", *flags, frame.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    [title] = re.findall(r"<title>(.*?)</title>", done.stdout, flags=re.DOTALL)[:1]
    return json.loads(html.unescape(title))


@pytest.fixture(scope="module")
def page(write_run, saved_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    write_report(write_run(folder / "demo", saved_model), folder / "report.html")
    return folder / "report.html"


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_every_picture_is_drawn(page, tmp_path, width):
    found = seen(page, tmp_path, width)
    assert found["wide"] == 0
    assert len(found["pictures"]) == 4
    assert all(found["pictures"])
    assert all(20 < chart <= width for chart in found["charts"])
    assert found["background"] == "rgb(255, 255, 255)"
    assert found["text"] >= 10
    assert found["blocks"] == [2, 2]  # each layer's matrix and shape stand together


def test_what_is_wider_than_a_phone_scrolls_and_says_so(page, tmp_path):
    found = seen(page, tmp_path, 390)
    assert found["cut"] >= 2
    assert found["hints"] >= found["cut"]
    assert found["shadows"] == found["frames"] >= 3
    assert seen(page, tmp_path, 1280)["hints"] == 0


def test_a_dark_desk_gets_a_dark_page(page, tmp_path):
    found = seen(page, tmp_path, 1280, "--blink-settings=preferredColorScheme=0")
    assert found["background"] == "rgb(20, 24, 28)"
