"""Random crops and mirrors of image batches, without a loop over the images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sslcli.data.randomness import sample_integers

ROWS, COLUMNS, MIRROR = range(3)


@dataclass(frozen=True)
class CropMirror:
    """Pad by ``padding`` black pixels, cut the original size out at random, mirror every second image."""

    padding: int = 4
    mirror: bool = True

    def apply(self, pixels: Tensor, indices: Tensor, *, seed: int, epoch: int) -> Tensor:
        """Augment a batch.

        Args:
            pixels: uint8 of shape (B, C, H, W).
            indices: int64 of shape (B,), the numbers of the samples in their data set.
            seed: seed of the run.
            epoch: epoch number.

        Returns:
            uint8 of shape (B, C, H, W).
        """
        batch, channels, height, width = pixels.shape
        below = 2 * self.padding + 1
        top = sample_integers(indices, below, seed, epoch, ROWS)
        left = sample_integers(indices, below, seed, epoch, COLUMNS)
        rows = top[:, None] + torch.arange(height, device=pixels.device)
        columns = torch.arange(width, device=pixels.device).expand(batch, width)
        if self.mirror:
            mirrored = sample_integers(indices, 2, seed, epoch, MIRROR).bool()
            columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
        columns = left[:, None] + columns
        padded = F.pad(pixels, (self.padding,) * 4)
        places = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        flat = places.view(batch, 1, height * width).expand(batch, channels, height * width)
        return padded.flatten(2).gather(2, flat).view(batch, channels, height, width)

    def __str__(self) -> str:
        return f"pad {self.padding}, random crop" + (", random mirror" if self.mirror else "")
