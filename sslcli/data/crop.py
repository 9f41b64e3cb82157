"""Which part of an image becomes the input."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sslcli.data.randomness import sample_uniform

LEAST_AREA = 0.25
LARGEST_ASPECT = 4 / 3
RESIZE = 8 / 7  # 256 for an input of 224
AREA, ASPECT, LEFT, TOP, MIRROR = range(5)


@dataclass(frozen=True)
class Crop:
    """A box (left, upper, right, lower) in pixels of the image, and whether it is mirrored."""

    box: tuple[float, float, float, float]
    mirrored: bool = False


def centre_crop(image: tuple[int, int], size: tuple[int, int]) -> Crop:
    """The middle of an image that was resized so that it just covers 8/7 of ``size``; both (W, H)."""
    scale = min(image[0] / size[0], image[1] / size[1]) / RESIZE
    width, height = size[0] * scale, size[1] * scale
    left, top = (image[0] - width) / 2, (image[1] - height) / 2
    return Crop((left, top, left + width, top + height))


def random_crop(image: tuple[int, int], size: tuple[int, int], index: int, seed: int, epoch: int) -> Crop:
    """A part of 1/4 to all of the largest box of the input's shape, its sides up to 4/3 apart; (W, H)."""

    def draw(stream: int) -> float:
        return sample_uniform(index, seed, epoch, stream)

    full = min(image[0] / size[0], image[1] / size[1])
    side = math.sqrt(LEAST_AREA + (1 - LEAST_AREA) * draw(AREA))
    stretch = LARGEST_ASPECT ** (draw(ASPECT) - 0.5)
    width = min(size[0] * full * side * stretch, image[0])
    height = min(size[1] * full * side / stretch, image[1])
    left, top = (image[0] - width) * draw(LEFT), (image[1] - height) * draw(TOP)
    return Crop((left, top, left + width, top + height), draw(MIRROR) < 0.5)
