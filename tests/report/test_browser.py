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
  const pictures = [...document.querySelectorAll("image")].map(async picture => {
    const image = new Image();
    image.src = picture.href.baseVal;
    await image.decode();
    return image.naturalWidth > 0;
  });
  const drawn = await Promise.all(pictures.map(promise => promise.catch(() => false)));
  document.title = JSON.stringify({
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    pictures: drawn,
    charts: [...document.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect().width),
    background: getComputedStyle(document.body).backgroundColor,
  });
});
</script>
"""


def seen(page, tmp_path, width, *flags):
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text() + PROBE)
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600",
        "--virtual-time-budget=5000", "--dump-dom", *flags, probed.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    [title] = re.findall(r"<title>(.*?)</title>", done.stdout, flags=re.DOTALL)[:1]
    return json.loads(html.unescape(title))


@pytest.fixture(scope="module")
def page(write_run, saved_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    write_report(write_run(folder / "demo", saved_model), folder / "report.html")
    return folder / "report.html"


@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_fits_and_every_picture_is_drawn(page, tmp_path, width):
    found = seen(page, tmp_path, width)
    assert found["wide"] == 0
    assert len(found["pictures"]) == 4
    assert all(found["pictures"])
    assert all(20 < chart <= width for chart in found["charts"])
    assert found["background"] == "rgb(255, 255, 255)"


def test_a_dark_desk_gets_a_dark_page(page, tmp_path):
    found = seen(page, tmp_path, 1280, "--blink-settings=preferredColorScheme=0")
    assert found["background"] == "rgb(20, 24, 28)"
