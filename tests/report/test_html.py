import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sslcli.errors import GateError, InputError
from sslcli.pipeline import results
from sslcli.report import figures, page_tables, to_json
from sslcli.report.html import write_report
from sslcli.report.page_tables import wilson
from sslcli.report.runs import Run, read_run

pytest.importorskip("matplotlib")


class Page(HTMLParser):
    """What a browser would load, and what a reader would see."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.words = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(write_run, saved_model, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "demo", saved_model)


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(folder, path)
    return Page(path.read_text())


def test_nothing_is_loaded_from_anywhere(page):
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    addresses = [value for _, attributes in page.tags for name, value in attributes.items()
                 if name in ("src", "href", "xlink:href")]  # fmt: skip
    assert addresses
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in addresses)
    assert "@import" not in "".join(page.words)


def test_every_picture_has_words_and_every_id_is_its_own(page):
    pictures = page.all("svg")
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    used = re.findall(r"url\(#([^)]+)\)", " ".join(str(attributes) for _, attributes in page.tags))
    assert set(used) <= set(identifiers)


def test_the_pictures_are_those_of_the_run(page):
    assert {
        "Accuracy over cost",
        "Where the arithmetic was, and what is left",
        "Speedup of each layer",
        "0 as a matrix",
        "0: learned filter shape",
        "1 as a matrix",
        "1: learned filter shape",
        "baseline: loss and penalty",
        "baseline: accuracy",
        "baseline: zero groups",
        "baseline: strengths",
    } <= set(page.words)
    assert "1 of 2 filters and 27 of 27 columns are left, 50 % of its arithmetic." in page.words


def test_the_summary_says_before_after_and_how_sure(page):
    for words in ("99.20 %", "was 99.10 %", "+0.10 points", "16.3 %", "4.00x", "95 % interval 3.88-4.12"):
        assert words in page.words
    spans = [wilson(right, 1000) for right in (991, 992)]
    before, after = (f"{100 * low:.2f} to {100 * high:.2f} %" for low, high in spans)
    assert f"95 % intervals {before} before, {after} after" in page.words
    assert {"1000 samples", "the intervals overlap: the change may be noise"} <= set(page.words)


def test_the_macs_of_the_summary_are_those_that_are_executed(page):
    assert {"MACs executed", "372 k", "was 2.29 M", "6.15 times fewer"} <= set(page.words)
    packed = next(words for words in page.words if words.startswith("packed 340 k"))
    assert packed.startswith("packed 340 k, 6.73 times fewer: live rows times live columns")


def accuracy_tile(run_result, errors, controls=("train", [])):
    """The tile of models with these errors, a control among them where a third is given."""
    first, last = run_result.models
    rows = [dataclasses.replace(first, error=errors[0]), dataclasses.replace(last, error=errors[1])]
    steps = list(run_result.steps)
    if len(errors) > 2:
        rows.insert(1, dataclasses.replace(first, id="control", error=errors[2], latency_ms=None))
        steps.append(results.StepOutcome("control", controls[0], controls[1], "run", 1.0, []))
    result = to_json(dataclasses.replace(run_result, models=rows, steps=steps))
    return page_tables.tiles(Run(Path(), result, {}, {}))[0]


@pytest.mark.parametrize(
    ("errors", "good"),
    [
        ((0.10, 0.02), True),
        ((0.02, 0.10), False),
        ((0.03, 0.02), None),  # the intervals of 1,000 samples overlap
        ((0.10, 0.02, 0.09), True),
        ((0.10, 0.02, 0.025), None),  # better than the first, not than the same training without sparsity
        ((0.02, 0.10, 0.01), False),
    ],
)
def test_an_accuracy_is_good_or_bad_only_beyond_noise(run_result, errors, good):
    assert accuracy_tile(run_result, errors).good is good


def test_the_control_has_a_line_of_its_own(run_result):
    lines = accuracy_tile(run_result, (0.01, 0.008, 0.005), ("train", ["baseline"])).details
    (line,) = (line for line in lines if "control" in line)
    assert line.startswith("control, trained without sparsity: 99.50 % (95 % interval ")
    assert line.endswith("small is -0.30 points from it")


def test_the_smallest_model_is_compared_wherever_it_stands(write_run, run_result, tmp_path):
    """A recipe may end with a control, or with a model that nobody counted."""
    dense, small = run_result.models
    control = dataclasses.replace(dense, id="control")
    unknown = dataclasses.replace(dense, id="unknown", macs_packed=0)
    folder = write_run(tmp_path / "demo", models=[dense, small, control, unknown])
    assert read_run(folder).smallest["id"] == small.id
    assert read_run(write_run(tmp_path / "other", models=[dense, control])).smallest["id"] == "control"


@pytest.mark.parametrize("made", [("regularize", ["baseline"]), ("train", ["small"])])
def test_what_was_made_sparse_is_no_control(run_result, made):
    assert "control" not in str(accuracy_tile(run_result, (0.01, 0.008, 0.005), made).details)


def test_a_change_without_a_side_has_no_colour(write_run, run_result, tmp_path):
    first, last = run_result.models
    last = dataclasses.replace(last, speedup=1.1, speedup_low=0.9, speedup_high=1.3, params=first.params)
    write_report(write_run(tmp_path / "demo", models=[first, last]), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    colours = dict(re.findall(r'class="label">([^<]+)<.*?class="(change[^"]*)"', text, flags=re.DOTALL))
    assert colours["test accuracy"] == colours["latency"] == colours["parameters"] == "change"
    assert colours["MACs executed"] == "change good"


def test_the_bars_say_how_a_limit_can_be_exceeded(page):
    (caption,) = (words for words in page.words if words.startswith("Measured on cpu"))
    assert "The limit is arithmetic, MACs before over MACs after" in caption
    assert "cache" in caption


def test_layers_steps_host_and_command_are_there(page):
    for words in ("19 of 50", "60 of 500", "8.12 %", "12.20x", 'target: {"macs": 0.5}', "a processor"):
        assert words in page.words
    assert "sslcli run recipes/demo.yaml" in page.words


def test_the_exact_command_of_the_run_is_there(write_run, tmp_path):
    made = results.Made(
        "sslcli run recipes/demo.yaml --set dense.epochs=2", {}, 5, "2026-01-02T03:04:05+00:00"
    )
    write_report(write_run(tmp_path / "demo", made=made), tmp_path / "report.html")
    words = Page((tmp_path / "report.html").read_text()).words
    assert made.command in words
    assert "sslcli run recipes/demo.yaml" not in words
    assert "Made 2026-01-02 03:04:05 UTC, seed 5" in words


def test_the_same_run_gives_the_same_page(folder, tmp_path):
    for name in ("first.html", "second.html"):
        write_report(folder, tmp_path / name)
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


def test_names_are_text_not_markup(write_run, tmp_path):
    write_report(write_run(tmp_path / "<b>bold"), tmp_path / "report.html")
    assert "<b>bold" not in (tmp_path / "report.html").read_text()
    assert "<b>bold" in Page((tmp_path / "report.html").read_text()).words


def test_several_runs_stand_side_by_side(write_run, tmp_path):
    one = write_run(tmp_path / "one")
    again = tmp_path / "two" / ".." / "one"
    made = write_report([one, write_run(tmp_path / "two"), again], tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert made.runs == ["one", "two"]
    assert "The runs side by side" in page.words
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_a_failed_gate_is_said(write_run, tmp_path):
    write_report(
        write_run(tmp_path / "demo", failure=GateError("small is 1.2x as fast")), tmp_path / "report.html"
    )
    text = " ".join(Page((tmp_path / "report.html").read_text()).words)
    assert "did not reach its goal: small is 1.2x as fast" in text


def test_without_the_plotting_library_the_page_says_so(write_run, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "can_draw", lambda: False)
    write_report(write_run(tmp_path / "demo"), tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert page.all("svg") == []
    assert "pip install 'sslcli[report]'" in page.words
    assert "99.20 %" in page.words


def test_a_model_that_cannot_be_read_is_said(write_run, tmp_path):
    folder = write_run(tmp_path / "demo")
    (folder / "small" / "model.pt2").write_bytes(b"nothing")
    write_report(folder, tmp_path / "report.html")
    words = " ".join(Page((tmp_path / "report.html").read_text()).words)
    assert "No pictures of the weights of small" in words


def test_a_run_without_models_is_a_page_too(write_run, tmp_path):
    write_report(write_run(tmp_path / "demo", models=[], steps=[]), tmp_path / "report.html")
    assert "The steps, with the options that were given" in Page((tmp_path / "report.html").read_text()).words


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no finished run"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"schema": "x/2"}', "has schema x/2"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, content, says):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=says) as caught:
        write_report(tmp_path, tmp_path / "report.html")
    assert caught.value.hint
    assert not (tmp_path / "report.html").exists()


def test_the_interval_of_a_fraction():
    low, high = wilson(0, 10)
    z = 1.959964
    assert math.isclose(low, 0, abs_tol=1e-12)
    assert math.isclose(high, z * z / (10 + z * z))
    assert wilson(30, 100)[0] == pytest.approx(1 - wilson(70, 100)[1])
