"""Runs command lines in forked processes with limits, and says what came of each.

A server process imports everything once; each command then runs in a fork of it, so that a hundred of them
cost seconds. The fork has a processor limit, an address space limit and a home and a temporary folder of its
own, and calls the same ``main`` as ``python -m sslcli``.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

CPU_S = 10
MEMORY_BYTES = 2 << 30
_WALL_S = 40  # for a process that sleeps; a busy one is ended by CPU_S, whatever else the machine does
_HASHED = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """How one command ended: its exit code (negative: the signal), what it said, what it took."""

    code: int
    out: str
    err: str
    peak_bytes: int
    cpu_s: float


class Server:
    """A process that has imported sslcli and runs command lines in forks of itself."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: list[str], place: Path) -> Outcome:
        """Run ``sslcli ARGUMENTS`` in ``place/work``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, str(place)]) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def listing(place: Path) -> dict[str, str]:
    """Every file, folder and link below a folder, with what is in it."""
    return {str(path.relative_to(place)): _state(path) for path in sorted(place.rglob("*"))}


def _state(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    if not path.is_file():
        return "no file"
    status = path.stat()
    content = hashlib.sha256(path.read_bytes()).hexdigest() if status.st_size < _HASHED else ""
    return f"{status.st_size} {status.st_mtime_ns} {content}"


def _serve() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import_everything()
    for line in sys.stdin:
        arguments, place = json.loads(line)
        replies.write(json.dumps(_outcome(arguments, Path(place))) + "\n")
        replies.flush()


def _import_everything() -> None:
    import onnx
    import onnxruntime  # noqa: F401
    import PIL.Image
    import torch

    import sslcli.cli.apply_plan
    import sslcli.cli.bench
    import sslcli.cli.evaluate
    import sslcli.cli.export
    import sslcli.cli.inspect
    import sslcli.cli.prune
    import sslcli.cli.recipe
    import sslcli.cli.regularize
    import sslcli.cli.report
    import sslcli.cli.run
    import sslcli.cli.train
    import sslcli.lowering.public
    import sslcli.pipeline.jobs
    import sslcli.pipeline.onnx_module
    import sslcli.pipeline.onnx_shape
    import sslcli.surgery.prune
    import sslcli.targeting  # noqa: F401

    torch.export.export(torch.nn.Linear(1, 1), (torch.zeros(2, 1),))  # what it imports when first called
    onnx.shape_inference.infer_shapes(onnx.ModelProto())
    PIL.Image.init()


def _outcome(arguments: list[str], place: Path) -> dict[str, object]:
    for name in ("home", "tmp"):
        (place / name).mkdir(exist_ok=True)
    out, err = place / "out", place / "err"
    child = os.fork()
    if child == 0:
        _become(arguments, place, out, err)
    status, usage = _wait(child)
    result = {
        "code": os.waitstatus_to_exitcode(status),
        "out": out.read_text(errors="replace"),
        "err": err.read_text(errors="replace"),
        "peak_bytes": usage.ru_maxrss * 1024,
        "cpu_s": usage.ru_utime + usage.ru_stime,
    }
    out.unlink()
    err.unlink()
    return result


def _wait(child: int) -> tuple[int, resource.struct_rusage]:
    end = time.monotonic() + _WALL_S
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return status, usage
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def _become(arguments: list[str], place: Path, out: Path, err: Path) -> None:
    code = 99
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
        os.environ.update(HOME=str(place / "home"), TMPDIR=str(place / "tmp"), COLUMNS="80")
        os.chdir(place / "work")
        _limit()
        from sslcli.cli.main import main

        code = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _serve()
