"""Where data sets' files are looked for."""

from __future__ import annotations

import os
from pathlib import Path

from sslcli.errors import DataError

SYSTEM = Path("/usr/share/datasets")


def data_root(root: str | Path | None) -> Path:
    """The folder that holds the data sets: ``root``, else SSLCLI_DATA_ROOT, else the user's cache.

    Raises:
        DataError: a folder was named that does not exist.
    """
    named = root if root is not None else os.environ.get("SSLCLI_DATA_ROOT") or None
    if named is None:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(cache).expanduser() / "sslcli" / "data"
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"the data root {folder} is not a folder",
            "set --data-root or SSLCLI_DATA_ROOT to one that exists",
        )
    return folder


def candidates(root: Path, layouts: tuple[str, ...]) -> list[Path]:
    """Folders that may hold a data set: each of its layouts under the root and the system's folder.

    The root itself counts where it already is such a folder (``--data-root D/mnist``).
    """
    folders = [base / layout for base in (root, SYSTEM) for layout in layouts]
    endings = [Path(layout).parts for layout in layouts]
    return folders + ([root] if any(root.parts[-len(parts) :] == parts for parts in endings) else [])


def missing(name: str, root: Path, layouts: tuple[str, ...], reason: str) -> DataError:
    """The error for a data set whose files are nowhere."""
    return DataError(
        f"the files of {name} are not there (no complete {' or '.join(layouts)} in {root} or {SYSTEM}) "
        f"and could not be fetched ({reason})",
        f"put them into a folder {layouts[0]} and name its parent with --data-root or SSLCLI_DATA_ROOT",
    )
