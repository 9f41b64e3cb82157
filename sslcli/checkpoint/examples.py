"""Example inputs of a model: a batch of 2 with the recorded shapes, the same for everybody."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sslcli.checkpoint.record import InputSpec
from sslcli.errors import ModelError, kind_of

BATCH = 2
_MAX_ELEMENTS = 1 << 27  # of one sample; a batch of two takes 1 GB in float32


def make_example(inputs: Sequence[InputSpec]) -> tuple[Tensor, ...]:
    """One tensor per input, standard normal; 0 and 1 in integer inputs, valid for any embedding.

    Shape:
        - Output i: (2, *inputs[i].shape)
    """
    generator = torch.Generator().manual_seed(0)
    return tuple(_tensor(spec, generator) for spec in inputs)


def input_specs(example: Sequence[Tensor]) -> tuple[InputSpec, ...]:
    """The specs of example inputs, whose first axis is the batch."""
    specs = []
    for index, tensor in enumerate(example):
        if not isinstance(tensor, Tensor) or tensor.dim() == 0:
            raise ModelError(
                f"input {index} of the example is {kind_of(tensor)} without a batch axis",
                "give tensors whose first axis is the batch",
            )
        specs.append(InputSpec(tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch.")))  # type: ignore[arg-type]
    return tuple(specs)


def batch_of_two(example: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The example with the first two samples; a batch of one is repeated."""
    return tuple(torch.cat([x, x]) if x.shape[0] == 1 else x[:BATCH].clone() for x in example)


def _tensor(spec: InputSpec, generator: torch.Generator) -> Tensor:
    if math.prod(spec.shape) > _MAX_ELEMENTS:
        raise ModelError(
            f"an input of shape {spec.shape} is too large to try the model on", "give --input-shape"
        )
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if dtype.is_floating_point:
        return torch.randn(BATCH, *spec.shape, generator=generator).to(dtype)
    return torch.randint(0, 2, (BATCH, *spec.shape), generator=generator).to(dtype)
