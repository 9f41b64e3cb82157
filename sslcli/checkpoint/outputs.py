"""What a model computes, as a flat list of tensors, and how far two such lists are apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def run_in_eval(model: nn.Module, example: Sequence[Tensor]) -> list[Tensor]:
    """The outputs in eval mode; modes and random state are left as they were."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)
        try:
            for module, _ in modes:
                module.training = False  # exported modules refuse eval()
            return list(tensors_in(model(*example)))
        finally:
            for module, mode in modes:
                module.training = mode


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested containers and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))


def max_relative_difference(expected: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    """Largest |a - b| over largest finite |a|, the worst of all outputs; infinite where shapes differ or NaN.

    Equal infinities differ by nothing.
    """
    if len(expected) != len(got):
        return float("inf")
    return max((_difference(a, b) for a, b in zip(expected, got, strict=True)), default=0.0)


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0:
        return 0.0
    kind = torch.complex128 if a.is_complex() else torch.float64
    a, b = a.to(kind), b.to(kind)
    scale = torch.where(a.isfinite(), a.abs(), 0.0).max().clamp(min=1e-12)
    error = float(torch.where(a == b, 0.0, (a - b).abs()).max() / scale)
    return error if error == error else float("inf")
