"""Counter-based random numbers: a hash of (seed, epoch, index, stream) instead of a generator's state."""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 1 << 64
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def mix(word: int) -> int:
    """The finaliser of splitmix64 on one unsigned 64-bit word.

    Reference: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
    """
    word = ((word ^ (word >> 30)) * _FIRST) % _WORD
    word = ((word ^ (word >> 27)) * _SECOND) % _WORD
    return word ^ (word >> 31)


def mix_tensor(words: Tensor) -> Tensor:
    """``mix`` of every element of an int64 tensor, read as unsigned words; returns int64."""
    words = (words ^ _shift(words, 30)) * _signed(_FIRST)
    words = (words ^ _shift(words, 27)) * _signed(_SECOND)
    return words ^ _shift(words, 31)


def key(seed: int, epoch: int, stream: int) -> int:
    """One unsigned word that stands for (seed, epoch, stream)."""
    word = mix((seed + _GOLDEN) % _WORD)
    word = mix((word + epoch * _GOLDEN + _GOLDEN) % _WORD)
    return mix((word + stream * _GOLDEN + _GOLDEN) % _WORD)


def sample_bits(indices: Tensor, seed: int, epoch: int, stream: int = 0) -> Tensor:
    """64 random bits per sample.

    Args:
        indices: int64 sample indices, any shape.
        seed: seed of the run.
        epoch: epoch number, from 0.
        stream: number of the decision, so that several decisions on one sample are independent.

    Returns:
        int64 tensor of the shape and device of ``indices``.
    """
    return mix_tensor(indices * _signed(_GOLDEN) + _signed(key(seed, epoch, stream)))


def sample_integers(indices: Tensor, below: int, seed: int, epoch: int, stream: int = 0) -> Tensor:
    """One integer in [0, below) per sample; ``below`` is at most 2**31."""
    return (_shift(sample_bits(indices, seed, epoch, stream), 33) * below) >> 31


def sample_uniform(index: int, seed: int, epoch: int, stream: int = 0) -> float:
    """One float in [0, 1) for one sample."""
    word = (index * _GOLDEN + key(seed, epoch, stream)) % _WORD
    return (mix(word) >> 11) / float(1 << 53)


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The permutation of ``range(count)`` in which an epoch visits the samples.

    Returns:
        int64 tensor of shape (count,); the same for the same (count, seed, epoch) on every machine.
    """
    return torch.argsort(sample_bits(torch.arange(count), seed, epoch, stream=-1), stable=True)


def _shift(words: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask makes it a logical shift
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - _WORD if word >= _WORD // 2 else word
