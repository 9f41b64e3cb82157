"""Outputs that are written whole or not at all, and locks on them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from sslcli.errors import OutputError, UsageError

_NO_SPACE_BYTES = 1 << 16
# What write(2) and fsync(2) report without naming a file.
_LARGEST_TEXT = 64 << 20
_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it to ``path``.

    The temporary name keeps the suffix of ``path``, since writers choose their format by it.
    On any exception the temporary file is removed and whatever stood at ``path`` is untouched.
    An OSError of the caller's body becomes an OutputError when it is about this output (it names the
    temporary file, or is a write error, which names no file); any other passes through as it is.

    Raises:
        OutputError: the folder is missing or read-only, ``path`` is a folder or a device, the disk is full.
    """
    path = Path(path)
    check_writable(path)
    handle, name = _temporary(path)
    os.close(handle)
    temporary = Path(name)
    try:
        try:
            yield temporary
        except OSError as error:
            if _is_about(error, temporary):
                raise output_error(path, error) from error
            raise
        _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """The content of a file that others may have made.

    Raises:
        OSError: it cannot be read, is a pipe, a device or a folder, or has more than ``limit_bytes``.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if path.stat().st_size > limit_bytes:
        raise OSError(errno.EFBIG, f"larger than {limit_bytes >> 20} MB", str(path))
    return path.read_bytes()


def check_writable(path: Path) -> None:
    """Raise OutputError now if ``path`` could not be written later (before hours of training)."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder", "name a file as the output")
    if _is_special(path):
        raise OutputError(
            f"{path} is a device or a pipe, which an output would replace",
            "name a file; `--json -` writes a result to standard output",
        )
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist", "create it or choose another output")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} is not writable", "choose another output")


def _is_special(path: Path) -> bool:
    """Whether a device, a pipe or a socket stands there, or a link to one such as /dev/stdout."""
    if path.is_symlink() and str(path.readlink()).startswith(("/dev/", "/proc/")):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def data_file(path: Path) -> Path:
    """Where the weights of the ONNX model ``path`` go if they do not fit into it."""
    return path.with_name(f"{path.name}.data")


def require_apart(outputs: Iterable[tuple[str, Path]]) -> None:
    """Refuse two outputs of one command that are one file, of which the later would destroy the earlier.

    Args:
        outputs: what each is called, and where it goes; links are followed.

    Raises:
        UsageError: two are one file; it names both.
    """
    seen: dict[Path, str] = {}
    for name, path in outputs:
        place = path.resolve()
        if place in seen:
            raise UsageError(f"{name} {path} is the file of {seen[place]} too", "give each a file of its own")
        seen[place] = f"{name} {path}"


def check_own_text(path: Path, beginning: re.Pattern[bytes], what: str, *, force: bool = False) -> None:
    """Refuse to write a text where a file stands that is no such text of an earlier run.

    Args:
        path: the file to write.
        beginning: what all such texts begin with.
        what: the kind of text, for the sentence.
        force: replace whatever stands there.

    Raises:
        OutputError: it could not be written, or what stands there is something else.
    """
    check_writable(path)
    if force or not path.is_file() or path.stat().st_size == 0:
        return
    try:
        with path.open("rb") as stream:
            ours = beginning.match(stream.read(_LARGEST_TEXT))
    except OSError as error:
        raise output_error(path, error) from error
    if not ours:
        raise OutputError(f"{path} exists and is not {what}", "name another file, or move this one away")


@contextlib.contextmanager
def lock_output(path: Path, companions: Iterable[Path] = ()) -> Iterator[None]:
    """Hold the exclusive lock of one output while it is made; what killed runs left of it is removed.

    The lock is advisory (``flock`` on ``.NAME.lock`` beside the output), so it ends with the process
    that holds it, however that process ends.

    Args:
        path: the output.
        companions: other files that only the holder writes (the state of a run, a plan).

    Raises:
        OutputError: another process holds it.
    """
    check_writable(path)
    lock = path.parent / f".{path.name}.lock"
    with _locked(lock, path):
        for written in (path, *companions):
            remove_leftovers(written)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _locked(lock: Path, path: Path) -> TextIO:
    """Open and lock the file that stands at ``lock`` now.

    Between opening and locking, the holder before us may have unlinked the file that we opened: its lock
    would then guard nothing. So the locked file must still be the one that the name leads to.
    """
    while True:
        try:
            stream = lock.open("a")
        except OSError as error:
            raise output_error(path, error) from error
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.close()
            raise OutputError(
                f"{path} is being written by another run", "wait for it, or choose another output"
            ) from error
        if _leads_to(lock, stream):
            return stream
        stream.close()


def _leads_to(path: Path, stream: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed runs left of ``path``; only its lock's holder may."""
    name = re.compile(re.escape(f".{path.stem}.") + r"[a-z0-9_]{8}" + re.escape(f".tmp{path.suffix}"))
    for entry in path.parent.iterdir():
        if name.fullmatch(entry.name):
            entry.unlink(missing_ok=True)


@contextlib.contextmanager
def write_errors(temporary: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Turn what a library's own writer raises into the OSError behind it.

    Such writers keep the system's message as text at best; else it is told from the space that is left.
    """
    try:
        yield
    except kinds as error:
        said = os.strerror(errno.ENOSPC).lower() in str(error).lower()
        full = said or shutil.disk_usage(temporary.parent).free < _NO_SPACE_BYTES
        code = errno.ENOSPC if full else errno.EIO
        raise OSError(code, os.strerror(code), str(temporary)) from error


def output_error(path: Path, error: OSError) -> OutputError:
    """The sentence for an OSError met while writing ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"no space left on the device while writing {path}", "free some space and run again"
        )
    return OutputError(f"cannot write {path} ({error.strerror or error})", "choose another output")


def _is_about(error: OSError, temporary: Path) -> bool:
    if error.filename is None:
        return error.errno in _WRITE_ERRORS
    return str(error.filename) == str(temporary)


def _publish(temporary: Path, path: Path) -> None:
    try:
        _sync(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise output_error(path, error) from error


def _temporary(path: Path) -> tuple[int, str]:
    try:
        return tempfile.mkstemp(prefix=f".{path.stem}.", suffix=f".tmp{path.suffix}", dir=path.parent)
    except OSError as error:
        raise output_error(path, error) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
