"""A disk that is full at any write: exit 9, one sentence, what stood there is intact, a rerun succeeds.

The double for the disk fails one call of ``fsync``, where file systems that allocate late tell of it, or caps
the size of files (RLIMIT_FSIZE), where writes tell. A small tmpfs is used too where it can be mounted.
"""

import errno
import json
import re
import shutil
import subprocess

import pytest
from forked import Trouble

SPARSE = "train arch:lenet -o sparse.pt2 --data mnist-5k -b 16 --max-steps 2 -q"
TRAIN = "train arch:lenet -o out.pt2 --data mnist-5k -b 16 --max-steps 4 --save-every-steps 2 -q"
COMMANDS = {
    "train": TRAIN,
    "prune": "prune sparse.pt2 -o out.pt2 --target macs=0.8 -q",
    "prune --json": "prune sparse.pt2 -o out.pt2 --target macs=0.8 --json out.json -q",
    "export": "export sparse.pt2 -o out.onnx --lower dense -q",
    "export to safetensors": "export sparse.pt2 -o out.safetensors -q",
    "export to a state dict": "export sparse.pt2 -o out.pt --force -q",
    "apply-plan": "apply-plan sparse.plan.json --arch lenet -o out.safetensors -q",
    "bench tables": "bench d.onnx --budget 0.05 --layers none --csv out.csv --markdown out.md -q",
}
RECIPE = """\
version: 1
model: {arch: lenet}
data: {name: mnist-5k, batch_size: 16}
steps:
  - {id: dense, uses: train, with: {max_steps: 4}}
  - {id: small, uses: prune}
  - {id: onnx, uses: export, with: {lower: dense}}
"""
RUN = "run r.yaml -o out -q"
WRITES = {  # calls of fsync: two an output, the file's and its folder's
    "train": (1, 3, 5, 6),
    "prune": (1, 2, 3, 4),
    "prune --json": (5,),
    "export": (1, 2),
    "export to safetensors": (1,),
    "export to a state dict": (1,),
    "apply-plan": (1,),
    "bench tables": (1, 3),
}
FEW = {("train", 3), ("prune", 1), ("apply-plan", 1)}
SIZES = (1, 3000, 200_000)


@pytest.fixture(scope="module")
def sources(shared):
    """A model with zero filters, its plan, an ONNX file."""
    shared.must(SPARSE)
    shared.must("prune sparse.pt2 -o small.pt2 --target macs=0.8 -q")
    shared.must("export sparse.pt2 -o d.onnx --lower dense -q")
    shutil.copy(shared.work / "small.plan.json", shared.work / "sparse.plan.json")
    return shared.work


@pytest.fixture
def ready(folder, sources):
    for name in ("sparse.pt2", "sparse.plan.json", "d.onnx"):
        shutil.copy(sources / name, folder.work / name)
    (folder.work / "r.yaml").write_text(RECIPE)
    return folder


def outputs(folder):
    """What was made, by name: digests, and results as they are but for the moment they were made."""
    made = {
        path.name: folder.digest(path) for path in folder.work.glob("out.*") if "metrics" not in path.name
    }
    if "out.json" in made:
        made["out.json"] = json.loads((folder.work / "out.json").read_text())
        del made["out.json"]["made"]["created"]
    return made


def temporary(folder):
    return [name for name in folder.hidden() if re.search(r"\.tmp|\.lock$", name)]


def require_told(outcome):
    assert outcome.code == 9, outcome
    (line,) = outcome.err.splitlines()
    assert line.startswith("Error: ")
    assert re.search(r"no space left|cannot write", line)


def slow_unless(pairs, few):
    return [pytest.param(*pair, marks=[] if pair in few else pytest.mark.slow) for pair in pairs]


@pytest.mark.parametrize(
    ("name", "number"), slow_unless([(name, n) for name in WRITES for n in WRITES[name]], FEW)
)
def test_the_disk_is_full_at_a_write(name, number, ready):
    """What a first, larger run made is still there when a second one cannot write."""
    command = COMMANDS[name]
    ready.must(command)
    before = outputs(ready)
    require_told(ready.run(command, Trouble("os.fsync", number, errno.ENOSPC)))
    if name == "bench tables":  # other times each time; the table after the one that stands is as it was
        assert outputs(ready).keys() == before.keys()
        assert outputs(ready)["out.md"] == before["out.md"]
    else:
        assert outputs(ready) == before
    assert temporary(ready) == []
    ready.must(command)
    assert outputs(ready) == before or name == "bench tables"
    assert ready.hidden() == []


@pytest.mark.parametrize(
    ("name", "size"),
    slow_unless([(name, size) for name in COMMANDS for size in SIZES], {("train", 3000)}),
)
def test_files_cannot_grow(name, size, ready):
    command = COMMANDS[name]
    outcome = ready.run(command, Trouble(file_bytes=size))
    if outcome.code == 0:  # all that it writes is smaller
        assert all((ready.work / made).stat().st_size <= size for made in outputs(ready))
        return
    require_told(outcome)
    assert temporary(ready) == []
    ready.must(command)
    assert ready.hidden() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 5, 9, 13, 17, 21, 23, 25])
def test_a_recipe_meets_a_full_disk(number, ready):
    require_told(ready.run(RUN, Trouble("os.fsync", number, errno.ENOSPC)))
    assert temporary(ready) == []
    done = {path: path.read_bytes() for path in ready.work.glob("out/*/model.*")}
    ready.must(RUN)
    assert {path: path.read_bytes() for path in done} == done
    assert ready.hidden() == []


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [100, 2000, 4000, 6000])
def test_a_small_tmpfs(kilobytes, ready):
    disk = ready.work / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        for command in (TRAIN, COMMANDS["prune"], COMMANDS["export to safetensors"]):
            outcome = ready.run(command.replace("-o out", "-o disk/out"), Trouble())
            if outcome.code:
                require_told(outcome)
                assert "no space left" in outcome.err
            assert temporary(ready) == []
            for path in disk.iterdir():
                path.unlink()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
