"""CIFAR-10 from its binary or its Python batches."""

from __future__ import annotations

import pickle
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from sslcli.data.fetch import FetchError, fetch
from sslcli.data.folders import candidates, missing
from sslcli.data.source import Normalization
from sslcli.errors import DataError, OutputError

LAYOUTS = ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar10/cifar-10-batches-bin", "cifar10")
BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
MIRRORS = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
CHECKSUM = "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NORMALIZATION = Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
PIXELS = 3 * 32 * 32


def read_cifar10(root: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Read CIFAR-10, fetching its binary archive if no batches are found.

    Returns:
        For ``train`` and ``test``: uint8 images of shape (N, 3, 32, 32) and int64 labels of shape (N,).

    Raises:
        DataError: batches missing and not fetched, or damaged.
    """
    folder, suffix = find(root) or _fetch(root)
    read = read_binary if suffix else read_pickled
    splits = {}
    for split, names in BATCHES.items():
        parts = [read(folder / f"{name}{suffix}") for name in names]
        splits[split] = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    return splits


def read_binary(path: Path) -> tuple[Tensor, Tensor]:
    """Read one binary batch: per image a label byte, then red, green and blue planes of 32 x 32."""
    content = bytearray(path.read_bytes())
    if not content or len(content) % (PIXELS + 1):
        raise DataError(
            f"{path} has {len(content)} bytes, which is not a whole number of {PIXELS + 1}-byte records",
            "the file is damaged; replace it with the original",
        )
    records = torch.frombuffer(content, dtype=torch.uint8).view(-1, PIXELS + 1)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long()


def read_pickled(path: Path) -> tuple[Tensor, Tensor]:
    """Read one batch of the Python version without running anything that its pickle may name."""
    with path.open("rb") as stream:
        try:
            batch = _ArrayUnpickler(stream).load()
            images, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"], dtype=np.int64)
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"{path} is not a batch of CIFAR-10 ({error})", "use the binary version, cifar-10-batches-bin"
            ) from error
    if images.dtype != np.uint8 or images.shape != (len(labels), PIXELS):
        raise DataError(
            f"{path} holds {images.dtype} data of shape {images.shape} for {len(labels)} labels",
            "the file is damaged; replace it with the original",
        )
    return torch.from_numpy(images.copy()).view(-1, 3, 32, 32), torch.from_numpy(labels)


def _byte_dtype(spec: object, align: object = False, copy: object = False) -> np.dtype[Any]:
    # the originals were written by Python 2 with integers as flags, which NumPy warns about
    name = spec.decode() if isinstance(spec, bytes) else spec
    if name not in ("u1", "|u1"):
        raise pickle.UnpicklingError(f"an array of {name}")
    return np.dtype(np.uint8)


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that can build lists, dicts, bytes and byte arrays, and nothing else."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return _byte_dtype
        if (module, name) == ("_codecs", "encode"):
            return _latin_bytes
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _latin_bytes(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("bytes in an unknown spelling")
    return text.encode("latin1")


def find(root: Path) -> tuple[Path, str] | None:
    """The first folder that holds all six batches, and their suffix (none: the Python version)."""
    names = [name for group in BATCHES.values() for name in group]
    for folder in candidates(root, LAYOUTS):
        for suffix in (".bin", ""):
            if all((folder / f"{name}{suffix}").is_file() for name in names):
                return folder, suffix
    return None


def _fetch(root: Path) -> tuple[Path, str]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as temporary:
            archive = fetch(MIRRORS, Path(temporary) / "cifar-10-binary.tar.gz", CHECKSUM)
            with tarfile.open(archive) as members:
                members.extractall(temporary, filter="data")
            (Path(temporary) / LAYOUTS[0]).replace(root / LAYOUTS[0])
    except (FetchError, OutputError, OSError, tarfile.TarError) as error:
        raise missing("cifar10", root, LAYOUTS, str(error)) from error
    return root / LAYOUTS[0], ".bin"
