"""Image folders: DIR/train/CLASS/*.png, with DIR/val and DIR/test where there are any."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sslcli.data.crop import Crop, centre_crop, random_crop
from sslcli.data.partition import ValidationFrom, divide, own_validation
from sslcli.data.samples import SampleSplit
from sslcli.data.source import DataSource, Normalization, choose_normalization
from sslcli.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
# Not left to Pillow, which would hand PostScript to an interpreter whatever the suffix says.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
FOLDERS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
DEFAULT_SHAPE = (3, 224, 224)
DEFAULTS = {
    3: Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's, as most checkpoints
    1: Normalization((0.5,), (0.5,)),
}


def load_imagefolder(
    folder: Path,
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    augment: bool | None,
    input_shape: Sequence[int] | None,
    workers: int,
    validation_from: ValidationFrom | None = None,
) -> DataSource:
    """Index an image folder; the images themselves are read batch by batch.

    Evaluation resizes to 8/7 of the input's size and cuts the middle out; training cuts a random part
    of 1/4 to all of the image, resizes it to the input's size and mirrors half of them.

    Raises:
        DataError: no such folders, a class without images, classes that training does not know.
    """
    _need_pillow()
    shape = _shape(input_shape)
    normalization = choose_normalization(DEFAULTS[shape[0]], mean, std, shape[0])
    found = {split: _split_folder(folder, names) for split, names in FOLDERS.items()}
    if not any(found.values()):
        raise DataError(
            f"{folder} has no folder train, val or test", "lay the images out as DIR/train/CLASS/image.png"
        )
    base = found["train"] or found["validation"] or found["test"]
    classes = _classes(base) if base else []
    files = {split: _files(path, classes) for split, path in found.items() if path is not None}
    if "validation" not in files and ("train" in files or validation_from is not None):
        test = files["test"][1] if "test" in files else None
        train = files["train"][1] if "train" in files else None
        parts = divide(train, test, validation_from, f"imagefolder:{folder}")
        files = {split: _take(*files[whole], indices) for split, (whole, indices) in parts.items()}
    elif validation_from is not None:
        raise own_validation(f"imagefolder:{folder}")
    splits = {
        split: SampleSplit(
            ImageFiles(paths, targets, shape, split == "train" and augment is not False),
            name=f"{folder} ({split})",
            normalization=normalization,
            classes=len(classes),
            workers=workers,
        )
        for split, (paths, targets) in files.items()
    }
    return DataSource(
        name=f"imagefolder:{folder}",
        train=splits.get("train"),
        validation=splits.get("validation"),
        test=splits.get("test"),
        normalization=normalization,
        input_shape=shape,
        classes=tuple(classes),
        augmentation="none" if augment is False else "random part of 1/4 to all, random mirror",
        validation_from=None if found["validation"] else validation_from or "train",
    )


class ImageFiles:
    """Image files with a class number each, decoded when asked for."""

    def __init__(
        self, paths: Sequence[Path], targets: Tensor, shape: tuple[int, int, int], augment: bool
    ) -> None:
        self.paths = paths
        self.targets = targets
        self.shape = shape
        self.augment = augment

    def __len__(self) -> int:
        return len(self.paths)

    def sample(self, index: int, *, seed: int, epoch: int) -> tuple[Tensor, int]:
        """Decode and crop image ``index``: uint8 of ``shape``, and its class number."""
        channels, height, width = self.shape
        image = read_image(self.paths[index], channels)
        crop = (
            random_crop(image.size, (width, height), index, seed, epoch)
            if self.augment
            else centre_crop(image.size, (width, height))
        )
        return _pixels(image, crop, (width, height), channels), int(self.targets[index])


def read_image(path: Path, channels: int) -> Image.Image:
    """Decode an image as RGB (3 channels) or grey (1 channel); 16-bit images are scaled to 8 bits.

    Raises:
        DataError: the file is broken, too large, or of a kind that has no range (32-bit values).
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as opened:
                opened.load()
                image: Image.Image = opened.copy()
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise DataError(f"cannot read the image {path} ({error})", "repair or remove the file") from error
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) * 255 // 65535).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise DataError(
            f"the image {path} holds 32-bit values of unknown range", "save it with 8 or 16 bits a channel"
        )
    return image.convert("RGB" if channels == 3 else "L")


def _pixels(image: Image.Image, crop: Crop, size: tuple[int, int], channels: int) -> Tensor:
    from PIL import Image

    small = image.resize(size, Image.Resampling.BILINEAR, box=crop.box)
    pixels = torch.from_numpy(np.array(small)).view(size[1], size[0], channels).permute(2, 0, 1)
    return pixels.flip(2) if crop.mirrored else pixels.contiguous()


def _need_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise DataError(
            "image folders need Pillow, which is not installed", "pip install 'sslcli[images]'"
        ) from error


def _shape(input_shape: Sequence[int] | None) -> tuple[int, int, int]:
    shape = DEFAULT_SHAPE if input_shape is None else tuple(input_shape)
    if len(shape) != 3 or shape[0] not in DEFAULTS or min(shape) < 1:
        raise DataError(
            f"images do not make inputs of shape {shape}", "the model must take 1 or 3 channels, as C,H,W"
        )
    return shape[0], shape[1], shape[2]


def _split_folder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _classes(folder: Path) -> list[str]:
    classes = sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not classes:
        raise DataError(f"{folder} has no class folders", f"lay the images out as {folder}/CLASS/image.png")
    return classes


def _files(folder: Path, classes: list[str]) -> tuple[list[Path], Tensor]:
    paths: list[Path] = []
    targets: list[int] = []
    for name in _classes(folder):
        if name not in classes:
            raise DataError(
                f"{folder} has a class {name!r} that the training images do not have",
                f"the classes are {', '.join(classes[:10])}",
            )
        images = sorted(_images(folder / name))
        if not images:
            raise DataError(
                f"the class folder {folder / name} holds no images", "add images to it or remove the folder"
            )
        paths += images
        targets += [classes.index(name)] * len(images)
    return paths, torch.tensor(targets)


def _images(folder: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    for directory, inner, names in os.walk(folder, followlinks=True):
        place = Path(directory).stat()
        if (place.st_dev, place.st_ino) in seen:  # a link that leads back
            inner.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        for name in names:
            path = Path(directory, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                if not path.is_file():
                    raise DataError(f"the image {path} is not a regular file", "remove it")
                yield path


def _take(paths: Sequence[Path], targets: Tensor, indices: Tensor) -> tuple[list[Path], Tensor]:
    return [paths[int(index)] for index in indices], targets[indices]
