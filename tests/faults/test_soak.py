"""The demo's recipe, cut short, twenty times over in one process: nothing grows.

A process of its own: what a test before it in the same one has left would be counted as growth.
"""

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sslcli.cli.main import main

RECIPE = Path(__file__).parents[2] / "recipes" / "demo.yaml"
SHORT = [
    *("dense.epochs=1", "sparse.epochs=1", "polished.epochs=1", "control.epochs=1"),
    *("small-onnx.lower=compact", "speed.budget=0.2", "speed.layers=null"),
]
ROUNDS = int(os.environ.get("SSLCLI_SOAK_ROUNDS", "20"))
WARM = 5  # rounds until caches (traced graphs, thread pools, arenas) are as large as they get
MB = 1 << 20
GROWTH_MB = 10  # over the fifteen rounds after those


def memory() -> int:
    """Resident bytes, less what the allocator holds free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (Path would open one more)


def temporary() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).iterdir()}


def soak(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Run the recipe in ``folder``; the memory (MB) and the open handles after each round."""
    kept = folder / "temporary"
    kept.mkdir()
    tempfile.tempdir = str(kept)
    sets = [word for setting in SHORT for word in ("--set", setting)]
    gate = ["--set", "speed.fail_under=null"]
    command = ["run", str(RECIPE), "-o", str(folder / "out"), "--force", "-q", *sets, *gate]
    used, opened = [], []
    for number in range(rounds):
        assert main(command) == 0, number
        used.append(memory() / MB)
        opened.append(handles())
        assert temporary() == set(), number
        assert not [path for path in folder.rglob(".*") if path.is_file()], number
    return {"memory": used, "handles": opened}


@pytest.mark.slow
@pytest.mark.timeout(7000)
def test_twenty_runs_in_one_process(tmp_path, capsys):
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "torch")}  # a cache of torch's own
    command = [sys.executable, __file__, str(tmp_path), str(ROUNDS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    used, opened = seen["memory"], seen["handles"]
    with capsys.disabled():
        print("memory, MB:", [round(value) for value in used], "handles:", opened)
    assert len(used) == ROUNDS
    assert max(opened[WARM:]) <= opened[WARM - 1]
    assert used[-1] - used[WARM - 1] < GROWTH_MB


if __name__ == "__main__":
    print(json.dumps(soak(Path(sys.argv[1]), int(sys.argv[2]))))
