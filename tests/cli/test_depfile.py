"""What a command read, as a rule for make."""

import json
import subprocess

import pytest

from sslcli.cli.depfile import write_depfile
from sslcli.cli.main import main


def rules(path):
    """What make itself understands of a depfile: target -> prerequisites."""
    done = subprocess.run(
        ["make", "--no-builtin-rules", "--print-data-base", "--question", "--file", path, "nothing"],
        capture_output=True, text=True, check=False, cwd=path.parent,
    )  # fmt: skip
    found = {}
    for line in done.stdout.split("# Files")[1].splitlines():
        target, colon, sources = line.partition(":")
        if colon and not line.startswith(("#", "\t", " ", ".")):
            found[target] = sources.split()
    return found


def test_every_source_is_a_prerequisite_and_a_rule_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.pth", "net.py"):
        (tmp_path / name).touch()
    write_depfile(
        tmp_path / "d", tmp_path / "out.pt2", [tmp_path / "a.pth", tmp_path / "net.py", tmp_path / "gone"]
    )
    assert (tmp_path / "d").read_text().splitlines() == [
        f"{tmp_path}/out.pt2: a.pth net.py", "", "a.pth:", "net.py:"
    ]  # fmt: skip
    assert rules(tmp_path / "d")[f"{tmp_path}/out.pt2"] == ["a.pth", "net.py"]


def test_names_that_make_would_take_apart_are_escaped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a b.pth", "c#d.pth", "e$f.pth"):
        (tmp_path / name).touch()
    write_depfile(tmp_path / "d", tmp_path / "out", [tmp_path / n for n in ("a b.pth", "c#d.pth", "e$f.pth")])
    (tmp_path / "d").write_text((tmp_path / "d").read_text().replace(f"{tmp_path}/out:", "out:"))
    (tmp_path / "Makefile").write_text("out:\n\ttouch out\ninclude d\n")
    make = ["make", "-s", "-C", str(tmp_path), "out"]
    assert subprocess.run(make, check=False, capture_output=True).returncode == 0
    asked = ["make", "-q", "-C", str(tmp_path), "out"]
    assert subprocess.run(asked, check=False).returncode == 0  # up to date
    (tmp_path / "c#d.pth").unlink()
    assert subprocess.run(asked, check=False).returncode == 1  # must be made anew, and is no error


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A net whose file imports another, and its prune."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts.py").write_text("WIDTH = 4\n")
    (tmp_path / "net.py").write_text(
        "from torch import nn\nfrom parts import WIDTH\n\n\n"
        "def make():\n    return nn.Sequential(nn.Linear(3, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))\n"
    )
    arguments = ["arch:net.py:make", "--input-shape", "3", "-o", "small.pt2", "-q", "--depfile", "small.d"]
    assert main(["prune", *arguments]) == 0
    return tmp_path


def test_code_counts_with_what_it_imports(made):
    assert rules(made / "small.d")["small.pt2"] == ["net.py", "parts.py"]


def test_a_command_without_output_needs_a_file_of_json(made, capfd):
    assert main(["inspect", "small.pt2", "--depfile", "x.d"]) == 2
    assert "--depfile needs a target; name a file with -o or --json" in capfd.readouterr().err
    assert main(["inspect", "small.pt2", "-q", "--json", "seen.json", "--depfile", "x.d"]) == 0
    assert rules(made / "x.d")["seen.json"][0] == "small.pt2"
    assert json.loads((made / "seen.json").read_text())["schema"] == "sslcli/inspect/1"
