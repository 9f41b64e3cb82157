"""Fetching a public file: from the first mirror that answers, kept only if its checksum is right."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import urllib.request
from pathlib import Path

from sslcli.files import atomic_output

TIMEOUT_S = 20


class FetchError(Exception):
    """No mirror gave the file; the message says what each one answered."""


def fetch(urls: tuple[str, ...], path: Path, checksum: str) -> Path:
    """Fetch the file at one of ``urls`` to ``path``, whole or not at all.

    Args:
        urls: mirrors of one file, tried in turn.
        path: where it goes; its folder is made.
        checksum: ``sha256:HEX`` or ``md5:HEX``, whichever its publisher states.

    Raises:
        FetchError: no mirror gave a file of that checksum.
        OutputError: ``path`` cannot be written.
    """
    answers = []
    for url in urls:
        try:
            _download(url, path, checksum)
        except FetchError as error:
            answers.append(f"{url}: {error}")
        else:
            return path
    raise FetchError("; ".join(answers))


def digest(path: Path, algorithm: str) -> str:
    """The hexadecimal digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _download(url: str, path: Path, checksum: str) -> None:
    algorithm, _, expected = checksum.partition(":")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # fixed public addresses only
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_output(path) as temporary:
                with temporary.open("wb") as stream:
                    shutil.copyfileobj(answer, stream)
                if digest(temporary, algorithm) != expected:
                    raise FetchError("the file's checksum is wrong")
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(str(error) or type(error).__name__) from error
