"""MNIST and Fashion-MNIST from their four IDX files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sslcli.data.fetch import FetchError, fetch
from sslcli.data.folders import candidates, missing
from sslcli.data.idx import read_idx
from sslcli.data.source import Normalization
from sslcli.errors import DataError, OutputError

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class IdxSet:
    """One data set in the four files of MNIST."""

    layouts: tuple[str, ...]
    mirrors: tuple[str, ...]
    checksums: Mapping[str, str]
    classes: tuple[str, ...]
    normalization: Normalization


MNIST = IdxSet(
    layouts=("mnist", "MNIST/raw", "MNIST"),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    checksums={
        "train-images-idx3-ubyte": "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte": "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte": "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte": "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    classes=tuple("0123456789"),
    normalization=Normalization((0.1307,), (0.3081,)),
)

FASHION_MNIST = IdxSet(
    layouts=("fashion-mnist", "FashionMNIST/raw", "FashionMNIST"),
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    checksums={
        "train-images-idx3-ubyte": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    },
    classes=(
        "t-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    normalization=Normalization((0.2860,), (0.3530,)),
)


def read_idx_set(name: str, dataset: IdxSet, root: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Read the train and test images and labels of an IDX set, fetching what is missing.

    Returns:
        For ``train`` and ``test``: uint8 images of shape (N, 1, H, W) and int64 labels of shape (N,).

    Raises:
        DataError: files missing and not fetched, damaged, or not belonging together.
    """
    folder = complete_folder(dataset, root) or _fetch_all(name, dataset, root)
    splits = {}
    for split, (images_name, labels_name) in FILES.items():
        images_path, labels_path = _find(folder, images_name), _find(folder, labels_name)
        if images_path is None or labels_path is None:
            raise DataError(f"{folder} has lost {images_name} or {labels_name}", "put the files back")
        images, labels = read_idx(images_path), read_idx(labels_path)
        if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels) or len(images) == 0:
            raise DataError(
                f"{images_path} of shape {tuple(images.shape)} and {labels_path} of shape "
                f"{tuple(labels.shape)} are not images with one label each",
                "replace them with the original files",
            )
        splits[split] = images.unsqueeze(1), labels.long()
    return splits


def complete_folder(dataset: IdxSet, root: Path) -> Path | None:
    """The first folder that holds all four files, raw or gzipped; None where there is none."""
    names = [name for pair in FILES.values() for name in pair]
    for folder in candidates(root, dataset.layouts):
        if all(_find(folder, name) for name in names):
            return folder
    return None


def _find(folder: Path, name: str) -> Path | None:
    spellings = (name, name.replace("-idx", ".idx"))
    paths = [folder / f"{spelling}{suffix}" for spelling in spellings for suffix in ("", ".gz")]
    return next((path for path in paths if path.is_file()), None)


def _fetch_all(name: str, dataset: IdxSet, root: Path) -> Path:
    folder = root / dataset.layouts[0]
    try:
        for file, checksum in dataset.checksums.items():
            if _find(folder, file) is None:
                urls = tuple(f"{mirror}{file}.gz" for mirror in dataset.mirrors)
                fetch(urls, folder / f"{file}.gz", checksum)
    except (FetchError, OutputError, OSError) as error:
        raise missing(name, root, dataset.layouts, str(error)) from error
    return folder
