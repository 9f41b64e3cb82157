"""Which data sets are at hand, without reading or fetching them."""

from __future__ import annotations

from pathlib import Path

from sslcli.data import cifar, digits, mnist
from sslcli.data.folders import data_root
from sslcli.errors import DataError

REMEDY = "fetched on first use; or put its files under --data-root"


def found_data_sets(root: str | Path | None = None) -> list[tuple[str, str | None, str]]:
    """Per built-in data set: its name, where its files are (None: nowhere), and how to get them."""
    try:
        folder = data_root(root)
    except DataError as error:
        return [("root", None, str(error))]
    batches = cifar.find(folder)
    places = {
        "mnist": mnist.complete_folder(mnist.MNIST, folder),
        "fashion-mnist": mnist.complete_folder(mnist.FASHION_MNIST, folder),
        "cifar10": None if batches is None else batches[0],
    }
    rows = [(name, None if place is None else str(place), REMEDY) for name, place in places.items()]
    return [*rows, ("mnist-5k", _digits(), "pip install 'sslcli[demo]'")]


def _digits() -> str | None:
    try:
        return str(digits.locate())
    except DataError:
        return None
