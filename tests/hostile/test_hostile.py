"""Every case ends with its exit code and one sentence, writes nothing, runs nothing, and is bounded."""

import contextlib
import pickle
import subprocess
import sys

import pytest
import torch
from all_cases import GROUPS
from case import Bomb
from cases_weights import PICKLES
from forked import MEMORY_BYTES, listing
from table import PAGE, on_page, table

CASES = [case for cases in GROUPS.values() for case in cases]
SLOW = {  # a second and more each, for a way in that a quicker case tries too
    "a pickle bomb as the teacher",
    "200,000 nested tuples",
    "a zip bomb",
    "compressed entries (a bomb of 100 MB)",
    "a record whose input would need terabytes",
    "a network of 80 GB",
    "a million times the same index",
    "a number of 200,000 digits",
    "200 KB of nested brackets",
    "a gzip bomb of 4 GB as an IDX file",
}
MARKED = [pytest.param(case, marks=[pytest.mark.slow] * (case.what in SLOW), id=case.what) for case in CASES]


@pytest.mark.parametrize("case", MARKED)
def test_the_outcome_is_as_the_table_says(case, server, place):
    case.make(place)
    before = listing(place.work)
    outcome = server.run(case.command.split(), place.work.parent)
    lines = outcome.err.splitlines()
    assert outcome.code == case.code, outcome
    assert not place.canary.exists(), "code of the file has run"
    assert listing(place.work) == before
    for folder in ("home", "tmp"):
        assert listing(place.work.parent / folder) == {}
    assert outcome.peak_bytes < MEMORY_BYTES
    if case.code:
        assert [line[:7] for line in lines] == ["Error: "], outcome.err
        assert case.says in lines[0]
    else:
        assert "Error" not in outcome.err


def test_there_are_enough_of_them_and_none_twice():
    assert len(CASES) >= 60
    names = {case.what for case in CASES}
    assert len(names) == len(CASES)
    assert names > SLOW


def test_the_table_in_the_docs_is_this_list():
    assert on_page(PAGE.read_text(encoding="utf-8")) == table(), "run python tests/hostile/table.py"


@pytest.mark.parametrize("case", [c for c in PICKLES if "bomb" in c.what][:6], ids=lambda case: case.what)
def test_unpickled_without_care_the_bombs_do_run(case, place):
    """Else a canary that is not there would prove nothing."""
    case.make(place)
    (path,) = (found for found in place.work.iterdir() if found.is_file())
    with contextlib.suppress(Exception), path.open("rb") as stream:  # what it says does not matter
        torch.load(stream, weights_only=False)
    if not place.canary.exists():  # a bare pickle
        with contextlib.suppress(Exception):
            pickle.loads(path.read_bytes())
    assert place.canary.exists()


def test_the_command_of_the_shell_does_the_same(place):
    """The forks above stand for this: a process of its own, started as a user would."""
    torch.save(Bomb(place), place.path("w.pt"))
    command = [sys.executable, "-m", "sslcli", "prune", "w.pt", "--arch", "lenet", "-o", "small.pt2"]
    done = subprocess.run(command, cwd=place.work, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "Error: w.pt is not loaded, since unpickling it would run code from the file"
    )
    assert not place.canary.exists()
    assert [path.name for path in place.work.iterdir()] == ["w.pt"]
