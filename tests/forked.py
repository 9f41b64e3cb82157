"""Runs command lines in forked processes with limits, and says what came of each.

A server process imports everything once; each command then runs in a fork of it, so that a hundred of them
cost seconds. The fork has a processor limit, an address space limit and a home and a temporary folder of its
own, and calls the same ``main`` as ``python -m sslcli``. On request something goes wrong in it: it is killed
at a certain call, or that call fails, or files cannot grow.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import io
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CPU_S = 10
MEMORY_BYTES = 2 << 30
_TROUBLED_S = 300
_WALL_S = 40  # for a process that sleeps; a busy one is ended by CPU_S, whatever else the machine does
_HASHED = 1 << 20
_SAID_BYTES = 1 << 20


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in one command; with any, the limits on time and memory are off.

    Attributes:
        call: a function by its import path, such as ``os.fsync``; empty: none.
        number: its call, from 1, that goes wrong.
        error: the errno that the call raises; 0: the process is killed there by SIGKILL.
        half: of a call ``torch.save``: write half of it first.
        file_bytes: the size that no file can exceed (RLIMIT_FSIZE); 0: any.
        after_s: seconds until the process is killed by SIGKILL; 0: never.
        user: run as this user, if we may.
        clock_back: ``time.time`` goes backwards.
    """

    call: str = ""
    number: int = 1
    error: int = 0
    half: bool = False
    file_bytes: int = 0
    after_s: float = 0.0
    user: int = 0
    clock_back: bool = False


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

    def run(self, arguments: list[str], place: Path, trouble: Trouble | None = None) -> Outcome:
        """Run ``sslcli ARGUMENTS`` in ``place/work``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = [arguments, str(place), asdict(trouble) if trouble else None]
        self._process.stdin.write(json.dumps(request) + "\n")
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
        arguments, place, trouble = json.loads(line)
        outcome = _outcome(arguments, Path(place), None if trouble is None else Trouble(**trouble))
        replies.write(json.dumps(outcome) + "\n")
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


def _outcome(arguments: list[str], place: Path, trouble: Trouble | None) -> dict[str, object]:
    for name in ("home", "tmp"):
        (place / name).mkdir(exist_ok=True)
    out, err = os.pipe(), os.pipe()  # no files, whose size may be limited
    for _, write in (out, err):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _SAID_BYTES)
    child = os.fork()
    if child == 0:
        _become(arguments, place, out[1], err[1], trouble)
    os.close(out[1])
    os.close(err[1])
    status, usage = _wait(child, trouble)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "out": _said(out[0]),
        "err": _said(err[0]),
        "peak_bytes": usage.ru_maxrss * 1024,
        "cpu_s": usage.ru_utime + usage.ru_stime,
    }


def _said(read: int) -> str:
    """What is in a pipe; a worker that outlives its command may still hold the other end."""
    os.set_blocking(read, False)
    found = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(read, _SAID_BYTES):
            found += part
    os.close(read)
    return found.decode(errors="replace")


def _wait(child: int, trouble: Trouble | None) -> tuple[int, resource.struct_rusage]:
    seconds = _WALL_S if trouble is None else trouble.after_s or _TROUBLED_S
    end = time.monotonic() + seconds
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return status, usage
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def _become(arguments: list[str], place: Path, out: int, err: int, trouble: Trouble | None) -> None:
    code = 99
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.environ.update(HOME=str(place / "home"), TMPDIR=str(place / "tmp"), COLUMNS="80")
        os.chdir(place / "work")
        if trouble is None:
            _limit()
        else:
            _prepare(trouble)
        from sslcli.cli.main import main

        code = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _prepare(trouble: Trouble) -> None:
    if trouble.file_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (trouble.file_bytes, trouble.file_bytes))
    if trouble.user and os.getuid() == 0:
        os.setgroups([])
        os.setgid(trouble.user)
        os.setuid(trouble.user)
    if trouble.clock_back:
        start, ticks = time.time(), itertools.count()
        time.time = lambda: start - 3600.0 * next(ticks)
    if not trouble.call:
        return
    owner_name, _, name = trouble.call.rpartition(".")
    owner = importlib.import_module(owner_name)
    real, count = getattr(owner, name), itertools.count(1)

    def troubled(*args: Any, **kwargs: Any) -> Any:
        if next(count) != trouble.number:
            return real(*args, **kwargs)
        if trouble.half:
            stream = io.BytesIO()
            real(args[0], stream)
            Path(args[1]).write_bytes(stream.getvalue()[: stream.tell() // 2])
        if trouble.error:
            raise OSError(trouble.error, os.strerror(trouble.error))
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(owner, name, troubled)


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _serve()
