"""The proof: the small network's outputs against those of the masked original, on inputs nobody chose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sslcli.errors import VerificationError
from sslcli.graph.program import Program

RELATIVE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Agreement:
    """The worst error over all outputs and inputs tried: absolute, and relative in norm."""

    max_abs_error: float
    max_rel_error: float


def run(program: Program, weights: Mapping[str, Tensor], inputs: Sequence[Any]) -> list[Tensor]:
    """Run a program's graph in eval form at given weights; all tensor outputs, flat."""
    names = program.names()
    feed = iter(inputs)
    values: dict[Any, Any] = {}
    readers = {node: len(node.users) for node in program.graph.nodes}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = weights[names[node]] if node in names else next(feed)
        elif node.op == "output":
            flat = pytree.tree_leaves(torch.fx.map_arg(node.args[0], lambda n: values[n]))
            return [x for x in flat if isinstance(x, Tensor)]
        else:
            args = torch.fx.map_arg(node.args, lambda n: values[n])
            kwargs = torch.fx.map_arg(node.kwargs, lambda n: values[n])
            values[node] = node.target(*args, **kwargs)
            for source in node.all_input_nodes:
                readers[source] -= 1
                if readers[source] == 0:
                    del values[source]
    return []


def fresh_inputs(program: Program, seeds: Sequence[int] = (1, 2)) -> Iterator[list[Any]]:
    """The example as it is, then random ones of the same kind; whole numbers stay the example's."""
    args, kwargs = program.example or ((), {})
    flat = pytree.tree_leaves((args, kwargs))
    yield flat
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        yield [
            torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) if _is_float(x) else x
            for x in flat
        ]


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


@torch.no_grad()
def agreement(
    masked: Program, weights: Mapping[str, Tensor], small: Program, small_weights: Mapping[str, Tensor]
) -> Agreement:
    """Compare two programs.

    Raises:
        VerificationError: the outputs differ by more than rounding explains.
    """
    worst, relative = 0.0, 0.0
    for inputs in fresh_inputs(masked):
        for want, got in zip(run(masked, weights, inputs), run(small, small_weights, inputs), strict=True):
            if want.shape != got.shape:
                raise VerificationError(
                    f"an output has shape {tuple(got.shape)} instead of {tuple(want.shape)}",
                    "please report the model; it is a fault of sslcli",
                )
            if not want.is_floating_point():
                continue
            difference = (want.double() - got.double()).abs()
            error = float(difference.max()) if difference.numel() else 0.0
            scale = float(want.double().norm())
            ratio = float(difference.norm()) / max(scale, 1e-12)
            if not (ratio <= RELATIVE.get(want.dtype, 1e-4)) and not error <= 1e-12:
                raise VerificationError(
                    f"the pruned network differs from the masked original by {ratio:.1e} (relative)",
                    "nothing was written; please report the model",
                )
            worst, relative = max(worst, error), max(relative, ratio)
    return Agreement(worst, relative)
