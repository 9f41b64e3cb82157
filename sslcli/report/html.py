"""The page that closes a run: one file, no network, light and dark."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

import sslcli
from sslcli.errors import SslcliError
from sslcli.files import atomic_output
from sslcli.report import figures, network, page_tables
from sslcli.report.figures import Figure
from sslcli.report.runs import ReportResult, Run, read_run

MARK = b'<meta name="generator" content="sslcli">'
LIBRARIES = ("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy")


@dataclass(frozen=True)
class RunPage:
    """One run on the page."""

    run: Run
    tiles: list[page_tables.Tile]
    models: page_tables.Grid
    layers: page_tables.Grid | None
    steps: page_tables.Grid
    host: dict[str, str]
    origin: str = ""
    costs: list[Figure] = field(default_factory=list)
    network: network.Drawing | None = None
    maps: list[Figure] = field(default_factory=list)
    maps_left_out: int = 0
    curves: dict[str, list[Figure]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def write_report(folders: Path | Sequence[Path], path: Path) -> ReportResult:
    """Write one self-contained page about one or several runs.

    Args:
        folders: folders that ``sslcli run`` made.
        path: the page.

    Raises:
        InputError: a folder holds no run.
        OutputError: the page cannot be written.
    """
    chosen = [folders] if isinstance(folders, Path) else list(folders)
    runs = [read_run(folder) for folder in chosen]
    text = render_page(runs)
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return ReportResult(str(path), [run.name for run in runs])


def is_report(path: Path) -> bool:
    """Whether a file is a page that ``write_report`` wrote."""
    with path.open("rb") as stream:
        return MARK in stream.read(2000)


def render_page(runs: Sequence[Run]) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sslcli.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    draw = figures.can_draw()
    return environment.get_template("report.html.j2").render(
        title=", ".join(run.name for run in runs),
        pages=[_page(run, f"run{number}", draw) for number, run in enumerate(runs, 1)],
        comparison=figures.accuracy_over_macs(runs, "all") if draw and len(runs) > 1 else [],
        can_draw=draw,
        version=sslcli.__version__,
        made_with=_environment(),
    )


def _page(run: Run, prefix: str, draw: bool) -> RunPage:
    notices: list[str] = []
    page = RunPage(
        network=_network(run, notices),
        notices=notices,
        run=run,
        tiles=page_tables.tiles(run),
        models=page_tables.models(run),
        layers=page_tables.layers(run),
        steps=page_tables.steps(run),
        host=page_tables.host(run),
        origin=page_tables.origin(run),
    )
    if draw:
        page.costs.extend(figures.accuracy_over_macs([run], prefix))
        page.costs.extend(figures.what_is_left(run, prefix) + figures.layer_speedups(run, prefix))
        for step, records in run.courses.items():
            page.curves[step] = figures.training_curves(step, records, prefix)
        return _with_maps(page, prefix)
    return page


def _network(run: Run, notices: list[str]) -> network.Drawing | None:
    """The graph of the first model that is there as a whole, with what the last one kept."""
    files = [run.model_file(model["id"]) for model in run.models]
    first = next((path for path in files if path.is_file()), None)
    if first is None or len(run.models) < 2:
        return None
    from sslcli import checkpoint
    from sslcli.graph.trace import trace

    try:
        loaded = checkpoint.load(first)
        parts = network.parts_of(trace(loaded.model, loaded.example))
    except SslcliError as error:  # the page says so and goes on
        notices.append(f"No picture of the network: {error.what}.")
        return None
    if len(parts) > network.MOST_BOXES:
        notices.append(f"The network has {len(parts)} parts, too many for a picture.")
        return None
    return network.drawing(parts, run.models[0]["layers"], run.models[-1]["layers"])


def _with_maps(page: RunPage, prefix: str) -> RunPage:
    made = [model["id"] for model in page.run.models if page.run.model_file(model["id"]).is_file()]
    if not made:
        return page
    try:
        maps, left_out = figures.matrix_maps(page.run.model_file(made[-1]), prefix)
    except SslcliError as error:  # the model needs its owner's code: the page says so and goes on
        page.notices.append(f"No pictures of the weights of {made[-1]}: {error.what}.")
        return page
    page.maps.extend(maps)
    if left_out:
        page.notices.append(f"The {left_out} smallest convolutions are not pictured.")
    return page


def _environment() -> dict[str, str]:
    found = {"sslcli": sslcli.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "system": platform.platform(terse=True), "machine": platform.machine()}
