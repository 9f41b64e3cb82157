"""Putting tensors by name into a module, with errors that say which do not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sslcli.errors import ModelError

_SHOWN = 6  # names listed of each kind before "and N more"
_OPTIONAL = "num_batches_tracked"  # counts of BatchNorm that old checkpoints lack


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy ``tensors`` into the parameters and buffers of ``model``; all or none.

    Names that end in `num_batches_tracked` may be missing or superfluous, and of parameters that are one
    tensor one name is enough.

    Raises:
        ModelError: missing, unexpected or misshaped names, or values that are NaN or infinite.
    """
    state = model.state_dict()
    missing, unexpected, misshaped = differences(state, tensors)
    if missing or unexpected or misshaped:
        parts = [
            _listed("missing", missing),
            _listed("unexpected", unexpected),
            _listed("of another shape", misshaped),
        ]
        raise ModelError(
            f"{where} does not fit the architecture: {'; '.join(p for p in parts if p)}",
            "check --arch and --arch-arg",
        )
    check_finite({name: tensors[name] for name in state if name in tensors}, where)
    with torch.no_grad():
        for name, target in state.items():
            if name in tensors:
                target.copy_(tensors[name])


def fits(model: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Whether :func:`load_tensors` would find every name with its shape."""
    return not any(differences(model.state_dict(), tensors))


def differences(
    state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> tuple[list[str], list[str], list[str]]:
    """Names that are missing, unexpected and misshaped (the last with both shapes)."""
    present = {tensor.data_ptr() for name, tensor in state.items() if name in tensors and tensor.numel()}
    missing = [
        name
        for name, tensor in state.items()
        if name not in tensors and not name.endswith(_OPTIONAL) and tensor.data_ptr() not in present
    ]
    unexpected = [name for name in tensors if name not in state and not name.endswith(_OPTIONAL)]
    misshaped = [
        f"{name} (file {_shape(tensors[name])}, model {_shape(target)})"
        for name, target in state.items()
        if name in tensors and not _same_kind(tensors[name], target)
    ]
    return missing, unexpected, misshaped


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise ModelError naming the tensors that hold NaN or infinite values."""
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not _finite(t)]
    if bad:
        raise ModelError(
            f"{where} holds weights that are not numbers: {_names(bad)}",
            "the training that wrote it diverged; use an earlier checkpoint",
        )


def _finite(tensor: Tensor) -> bool:
    # A sum is one pass without a mask of the tensor's size; it can overflow, hence the second look.
    values = tensor.detach()
    if bool(torch.isfinite(values.sum(dtype=torch.float64))):
        return True
    return bool(torch.isfinite(values).all())


def _same_kind(given: Tensor, wanted: Tensor) -> bool:
    return (
        given.shape == wanted.shape
        and given.layout == torch.strided
        and not given.is_quantized
        and given.is_complex() == wanted.is_complex()
        and given.is_floating_point() == wanted.is_floating_point()
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape) or "scalar"


def _listed(label: str, names: list[str]) -> str:
    return f"{label} {_names(names)}" if names else ""


def _names(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(printable(name) for name in names[:_SHOWN]) + more


def printable(name: object) -> str:
    """A name out of a file, fit for one line of an error."""
    return "".join(c if c.isprintable() else "?" for c in str(name))[:120]
