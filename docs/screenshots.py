"""Write docs/images from real runs: the report in a browser, the terminal by rich's own SVG export.

``python docs/screenshots.py [RUN]``: RUN is the folder of a finished run of recipes/demo.yaml, which is made
where none is given (some minutes). Needs chromium.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.terminal_theme import MONOKAI

from sslcli.cli import terminal
from sslcli.cli.main import main as sslcli
from sslcli.pipeline import results
from sslcli.report import progress, render
from sslcli.report.progress import describe, panel
from sslcli.training.progress import Progress

ROOT = Path(__file__).parents[1]
IMAGES = Path(__file__).parent / "images"
DARK = "--blink-settings=preferredColorScheme=0"
PHONE = (
    '<body style="margin:0"><iframe src="{page}" style="border:0;width:{width}px;height:{height}px"></iframe>'
)


def browser() -> str:
    """The chromium that is installed."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return found or sys.exit("no chromium is installed")


def shoot(page: Path, name: str, width: int, height: int, *flags: str) -> None:
    """A picture of the top of a page."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--disable-background-networking", f"--user-data-dir={profile}",
            f"--window-size={width},{height}", f"--screenshot={IMAGES / name}", *flags, page.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def crop(name: str, box: tuple[int, int, int, int]) -> None:
    """Cut a picture to (left, top, right, bottom)."""
    with Image.open(IMAGES / name) as picture:
        part = picture.crop(box)
    part.save(IMAGES / name, optimize=True)


def shoot_report(page: Path) -> None:
    """Desktop, dark, phone: the last in a frame, since a browser's window cannot be that narrow."""
    shoot(page, "report-desktop.png", 1280, 1700)
    shoot(page, "report-dark.png", 1280, 1700, DARK)
    frame = page.with_name("phone.html")
    frame.write_text(PHONE.format(page=page.name, width=390, height=1500), encoding="utf-8")
    shoot(frame, "report-phone.png", 500, 1500)
    frame.unlink()
    crop("report-phone.png", (0, 0, 390, 1500))


@contextlib.contextmanager
def recorded(name: str, title: str) -> Iterator[None]:
    """What commands print meanwhile, as a picture of a terminal of 80 columns."""
    with Path("/dev/null").open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=80, force_terminal=True, file=nowhere, highlight=False)
        before, terminal._console = terminal._console, lambda stderr: console
        try:
            console.print(f"[bold]$ {title}[/]", highlight=False)
            yield
        finally:
            terminal._console = before
        console.save_svg(str(IMAGES / name), title="sslcli", theme=MONOKAI, unique_id=name.partition(".")[0])


def result_of(run: Path) -> results.RunResult:
    """What the run returned, as its ``run.json`` has it."""
    kept = json.loads((run / "run.json").read_text(encoding="utf-8"))
    steps = [results.StepOutcome(**step) for step in kept["steps"]]
    models = [results.ModelRow(**model) for model in kept["models"]]
    return results.RunResult(
        kept["recipe"], kept["folder"], False, kept["seconds"], steps, models, kept["report"]
    )  # fmt: skip


def shoot_terminal(run: Path) -> None:
    """The closing tables of a run, a training's progress, and what inspect says."""
    recipe = "recipes/demo.yaml"
    with recorded("terminal-run.svg", f"sslcli run {recipe}"):
        render(terminal._console(stderr=False), result_of(run))
    sparse = str(run / "sparse" / "model.pt2")
    with recorded("terminal-inspect.svg", "sslcli inspect sparse.pt2"):
        sslcli(["inspect", sparse])
    records = records_of_training(sparse)
    with recorded("terminal-train.svg", "sslcli train sparse.pt2 --data mnist-5k --epochs 4 -o more.pt2"):
        console = terminal._console(stderr=True)
        for record in records:
            if record.kind in ("start", "epoch") and record.epoch <= 2:
                console.print(describe(record, pace=False), soft_wrap=True)
        console.print(
            panel(next(record for record in records if record.kind == "step" and record.epoch > 2.3))
        )


def records_of_training(model: str) -> list[Progress]:
    """What a training tells those who watch it."""
    records: list[Progress] = []

    @contextlib.contextmanager
    def watched(_console: Console) -> Iterator[Callable[[Progress], None]]:
        yield records.append

    before, progress.show_progress = progress.show_progress, watched
    try:
        with tempfile.TemporaryDirectory() as folder:
            sslcli(["train", model, "--data", "mnist-5k", "--epochs", "4", "-o", f"{folder}/more.pt2"])
    finally:
        progress.show_progress = before
    return records


def main() -> int:
    """Make the run if none is given, then every picture."""
    IMAGES.mkdir(exist_ok=True)
    run = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "demo"
    if not (run / "run.json").is_file():
        code = sslcli(["run", str(ROOT / "recipes" / "demo.yaml"), "-o", str(run)])
        if code:
            return code
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        if sslcli(["report", str(run), "-o", str(page), "-q"]):
            return 1
        shoot_report(page)
    shoot_terminal(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
