"""Data sets of a few random samples, in place of what the how-tos name."""

import torch
from torch.utils.data import TensorDataset


def make_images(seed=0):
    """Train, validation and test: 3 x 32 x 32 in ten classes."""
    generator = torch.Generator().manual_seed(seed)
    return [
        TensorDataset(
            torch.randn(count, 3, 32, 32, generator=generator),
            torch.randint(0, 10, (count,), generator=generator),
        )
        for count in (64, 32, 32)
    ]
