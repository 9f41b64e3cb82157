"""Probes: does another instance of a network compute what the pruned one computed?

Both get weights made from nothing but their names and shapes, so the comparison needs no weights in the plan.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sslcli.errors import PlanError

_SHOWN = 64
_TOLERANCE = 1e-3
_LARGEST_INPUT = 1 << 28


def make_probe(model: nn.Module, example: tuple[Any, ...]) -> dict[str, Any]:
    """Shapes of the inputs and a digest of the outputs of ``model`` under made weights."""
    inputs = [_describe(x) for x in example]
    with _made_weights(model), torch.no_grad():
        outputs = _digest(model(*[_made_input(entry) for entry in inputs]))
    return {"inputs": inputs, "outputs": outputs}


def check_probe(model: nn.Module, probe: dict[str, Any]) -> None:
    """Run a probe on another instance.

    Raises:
        PlanError: it fails or computes something else: a size or a scale is written into its code.
    """
    hint = "the class has a size or a scale written into its code: use the .pt2 instead, which needs no class"
    try:
        inputs = [_made_input(entry) for entry in probe["inputs"]]
        expected = [(float(e["norm"]), [float(v) for v in e["values"]]) for e in probe["outputs"]]
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise PlanError(f"the probe of the plan is malformed ({error})", "prune again") from error
    try:
        with _made_weights(model), torch.no_grad():
            got = _digest(model(*inputs))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise PlanError(f"the reshaped model does not run ({first[:160]})", hint) from error
    if len(got) != len(expected):
        raise PlanError(f"the reshaped model has {len(got)} outputs, the plan {len(expected)}", hint)
    for entry, (norm, values) in zip(got, expected, strict=True):
        distance = math.dist(entry["values"], values) if len(entry["values"]) == len(values) else math.inf
        scale = max(math.hypot(*values), 1e-12) if values else 1.0
        if not (
            distance <= _TOLERANCE * scale and abs(entry["norm"] - norm) <= _TOLERANCE * max(norm, 1e-12)
        ):
            raise PlanError("the reshaped model computes something else than the pruned one", hint)


def _describe(x: Any) -> dict[str, Any]:
    high = int(x.max()) if not x.is_floating_point() and x.numel() else 0
    return {"shape": list(x.shape), "dtype": str(x.dtype).removeprefix("torch."), "high": high}


def _made_input(entry: dict[str, Any]) -> Tensor:
    dtype = getattr(torch, str(entry["dtype"]), None)
    shape = tuple(int(size) for size in entry["shape"])
    if not isinstance(dtype, torch.dtype) or min(shape, default=0) < 0 or math.prod(shape) > _LARGEST_INPUT:
        raise ValueError("an input of unknown kind or absurd size")
    noise = _noise("input", shape)
    if dtype.is_floating_point:
        return (noise * 2).to(dtype)
    return ((noise + 0.5) * (int(entry["high"]) + 1)).long().clamp(0, int(entry["high"])).to(dtype)


def _noise(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers in [-0.5, 0.5) that depend on a name and a place alone, float64."""
    places = torch.arange(math.prod(shape), dtype=torch.float64)
    seed = zlib.crc32(name.encode()) / 2**32
    return (
        torch.frac((places + 1) * 0.7548776662466927 + seed * 97.0 + torch.sin(places * 1.3 + seed)) % 1.0
    ).reshape(shape) - 0.5


@contextlib.contextmanager
def _made_weights(model: nn.Module) -> Iterator[None]:
    """Give a model made weights in eval mode; its own come back afterwards."""
    modes = {module: module.training for module in model.modules()}
    tensors = {name: p.data for name, p in model.named_parameters()}
    norms = ("running_mean", "running_var")
    tensors |= {name: b for name, b in model.named_buffers() if name.endswith(norms)}
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    model.eval()
    try:
        for name, tensor in tensors.items():
            tensor.copy_(_made_weight(name, tensor))
        yield
    finally:
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])
        for module, mode in modes.items():
            module.training = mode


def _made_weight(name: str, tensor: Tensor) -> Tensor:
    noise = _noise(name, tuple(tensor.shape)).to(tensor.device)
    if name.endswith("running_var"):
        return noise + 1.0
    if tensor.dim() > 1:
        fan_in = max(tensor.numel() // tensor.shape[0], 1)
        return noise * math.sqrt(12.0 / fan_in)
    return noise + (1.0 if name.endswith("weight") else 0.0)


def _digest(outputs: Any) -> list[dict[str, Any]]:
    tensors = [x for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor) and x.is_floating_point()]
    return [
        {
            "norm": float(f"{float(x.double().norm()):.8g}"),
            "values": [float(f"{v:.8g}") for v in x.double().reshape(-1)[:_SHOWN].tolist()],
        }
        for x in tensors
    ]
