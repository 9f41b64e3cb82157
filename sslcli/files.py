"""Outputs that are written whole or not at all, and locks on them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sslcli.errors import OutputError


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it to ``path``.

    The temporary name keeps the suffix of ``path``, since writers choose their format by it.
    On any exception the temporary file is removed and whatever stood at ``path`` is untouched.

    Raises:
        OutputError: the folder is missing or read-only, ``path`` is a folder, or the disk is full.
    """
    path = Path(path)
    check_writable(path)
    handle, name = _temporary(path)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise OutputError now if ``path`` could not be written later (before hours of training)."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder", "name a file as the output")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist", "create it or choose another output")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} is not writable", "choose another output")


@contextlib.contextmanager
def lock_output(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of one output while it is made.

    The lock is advisory (``flock`` on ``.NAME.lock`` beside the output), so it ends with the process
    that holds it, however that process ends.

    Raises:
        OutputError: another process holds it.
    """
    check_writable(path)
    lock = path.parent / f".{path.name}.lock"
    try:
        stream = lock.open("a")
    except OSError as error:
        raise output_error(path, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(
                f"{path} is being written by another run", "wait for it, or choose another output"
            ) from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def output_error(path: Path, error: OSError) -> OutputError:
    """The sentence for an OSError met while writing ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"no space left on the device while writing {path}", "free some space and run again"
        )
    return OutputError(f"cannot write {path} ({error.strerror or error})", "choose another output")


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
