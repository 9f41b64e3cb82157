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
from sslcli.report.runs import ReportResult, Run, read_runs

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
    runs = read_runs([folders] if isinstance(folders, Path) else folders)
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
        side_by_side=page_tables.side_by_side(runs),
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
    """The graph of the first model that can be read, with what the smallest one kept."""
    files = _saved_files(run)
    if not files or len(run.models) < 2:
        return None
    from sslcli import checkpoint
    from sslcli.graph.trace import trace

    parts, problems = None, []
    for path in files.values():
        try:
            loaded = checkpoint.load(path)
            parts = network.parts_of(trace(loaded.model, loaded.example))
            break
        except SslcliError as error:  # another model may do; if none does, the page says so and goes on
            problems.append(error)
    if parts is None:
        notices.append(f"No picture of the network: {problems[0].what}.")
        return None
    if len(parts) > network.MOST_BOXES:
        notices.append(f"The network has {len(parts)} parts, too many for a picture.")
        return None
    return network.drawing(parts, run.models[0]["layers"], run.smallest["layers"])


def _with_maps(page: RunPage, prefix: str) -> RunPage:
    files = _saved_files(page.run)
    if not files:
        return page
    chosen = str(page.run.smallest["id"])
    last = chosen if chosen in files else list(files)[-1]
    try:
        maps, left_out = figures.matrix_maps(files[last], prefix)
    except SslcliError as error:  # the model needs its owner's code: the page says so and goes on
        page.notices.append(f"No pictures of the weights of {last}: {error.what}.")
        return page
    page.maps.extend(maps)
    if left_out:
        page.notices.append(f"The {left_out} smallest convolutions are not pictured.")
    return page


def _saved_files(run: Run) -> dict[str, Path]:
    """The saved models that are there, by their steps; ONNX files hold no network that could be traced."""
    files = {str(model["id"]): run.model_file(model["id"]) for model in run.models}
    return {name: path for name, path in files.items() if path.suffix == ".pt2" and path.is_file()}


def _environment() -> dict[str, str]:
    found = {"sslcli": sslcli.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "system": platform.platform(terse=True), "machine": platform.machine()}
