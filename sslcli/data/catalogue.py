"""DATA as the command line names it, turned into a data set."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from sslcli.data import cifar, digits, mnist
from sslcli.data.augment import CropMirror
from sslcli.data.factory import load_factory
from sslcli.data.folders import data_root
from sslcli.data.imagefolder import load_imagefolder
from sslcli.data.partition import ValidationFrom, divide
from sslcli.data.samples import check_targets
from sslcli.data.source import DataSource, Normalization, TensorSplit, choose_normalization
from sslcli.errors import DataError
from sslcli.options.names import DATA_SETS

Arrays = dict[str, tuple[Tensor, Tensor]]


def load_data(
    name: str,
    *,
    root: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    augment: bool | None = None,
    input_shape: Sequence[int] | None = None,
    workers: int = 0,
    validation_from: ValidationFrom | None = None,
) -> DataSource:
    """Load a data set by its name on the command line.

    Where the data has no validation split, a tenth of the training set (at most 5,000 samples) is cut
    off for it, or half of the test set, the same samples for every seed.

    Args:
        name: ``mnist``, ``fashion-mnist``, ``cifar10``, ``mnist-5k``, ``imagefolder:DIR``,
            ``package.module:factory`` or ``file.py:factory``.
        root: folder that holds the data sets' files; default SSLCLI_DATA_ROOT, then the user's cache.
        mean: mean per channel for values in [0, 1]; default: the training set's own for the built-in sets
            (mnist and mnist-5k 0.1307, fashion-mnist 0.2860, cifar10 0.4914, 0.4822, 0.4465), ImageNet's
            for image folders (0.485, 0.456, 0.406; grey 0.5), none for factories.
        std: standard deviation per channel; goes with ``mean``.
        seed: handed to a factory that takes a ``seed``; the built-in sets do not depend on it.
        augment: whether training samples are augmented; default: cifar10 and imagefolder are. The sets of
            28x28 pixels can be shifted by up to 2 pixels, but usually are not.
        input_shape: (C, H, W) that the model takes; image folders are resized to it.
        workers: processes that prepare samples of image folders and factories.
        validation_from: ``train`` or ``test``: where the validation split is cut off; default: train, or
            the split that the data has. A model that has learned the whole training set can only be judged
            by ``test``; what is left of the test set is the test split then.

    Raises:
        DataError: no such data set, or its files are missing, damaged or do not fit.
    """
    if name in DATA_SETS:
        return _built_in(name, data_root(root), mean, std, augment, validation_from)
    if name.startswith("imagefolder:"):
        folder = Path(name.removeprefix("imagefolder:")).expanduser()
        return load_imagefolder(
            folder,
            mean=mean,
            std=std,
            augment=augment,
            input_shape=input_shape,
            workers=workers,
            validation_from=validation_from,
        )
    if ":" in name:
        return load_factory(
            name, mean=mean, std=std, seed=seed, workers=workers, validation_from=validation_from
        )
    close = difflib.get_close_matches(name, DATA_SETS, n=1, cutoff=0.5)
    raise DataError(
        f"there is no data set {name!r}" + (f"; did you mean {close[0]}" if close else ""),
        f"use {', '.join(DATA_SETS)}, imagefolder:DIR, package.module:factory or file.py:factory",
    )


def _built_in(
    name: str,
    root: Path,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    augment: bool | None,
    validation_from: ValidationFrom | None,
) -> DataSource:
    read, classes, default, usual, possible = _BUILT_IN[name]
    arrays = read(root)
    for split, (_, labels) in arrays.items():
        check_targets(labels, len(classes), f"the {split} split of {name}")
    shape = tuple(arrays["train"][0].shape[1:])
    normalization = choose_normalization(default, mean, std, shape[0])
    augmentation = possible if augment or (augment is None and usual) else None
    parts = divide(arrays["train"][1], arrays["test"][1], validation_from, name)

    def taken(part: str, augmentation: CropMirror | None = None) -> TensorSplit:
        whole, indices = parts[part]
        pixels, labels = arrays[whole]
        return TensorSplit(pixels[indices], labels[indices], normalization, augmentation)

    return DataSource(
        name=name,
        train=taken("train", augmentation),
        validation=taken("validation") if "validation" in parts else None,
        test=taken("test"),
        normalization=normalization,
        input_shape=shape,
        classes=classes,
        augmentation=str(augmentation or "none"),
        validation_from=validation_from or "train",
    )


def _read_mnist(root: Path) -> Arrays:
    return mnist.read_idx_set("mnist", mnist.MNIST, root)


def _read_fashion_mnist(root: Path) -> Arrays:
    return mnist.read_idx_set("fashion-mnist", mnist.FASHION_MNIST, root)


def _read_digits(_: Path) -> Arrays:
    return digits.read_digits()


# By name: reader, classes, normalisation, whether training is usually augmented, and how it can be.
# Digits are shifted only: a mirrored one is another sign or none.
_SHIFTED = CropMirror(padding=2, mirror=False)
_BUILT_IN: dict[str, tuple[Callable[[Path], Arrays], tuple[str, ...], Normalization, bool, CropMirror]] = {
    "mnist": (_read_mnist, mnist.MNIST.classes, mnist.MNIST.normalization, False, _SHIFTED),
    "fashion-mnist": (
        _read_fashion_mnist,
        mnist.FASHION_MNIST.classes,
        mnist.FASHION_MNIST.normalization,
        False,
        _SHIFTED,
    ),
    "cifar10": (cifar.read_cifar10, cifar.CLASSES, cifar.NORMALIZATION, True, CropMirror()),
    "mnist-5k": (_read_digits, mnist.MNIST.classes, mnist.MNIST.normalization, False, _SHIFTED),
}
