"""Bring a fresh instance of a class to the shape that a plan describes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sslcli.errors import LayersGoneError, PlanError
from sslcli.plan.plan import Axes, Plan
from sslcli.plan.probe import check_probe


def apply_plan(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of ``model`` with its parameters and buffers cut as the plan says.

    The weights that are kept keep their values; load the pruned state dict to get the pruned network.
    The plan's probe is run on the result.

    Args:
        model: a fresh instance of the class that was pruned, at its original size.
        plan: from ``PruneResult.plan`` or ``Plan.from_json``.

    Raises:
        PlanError: the plan does not fit the model, or its class computes something else at that size.
    """
    small = copy.deepcopy(model)
    tensors = dict(small.named_parameters(remove_duplicate=False)) | dict(
        small.named_buffers(remove_duplicate=False)
    )
    modules = dict(small.named_modules(remove_duplicate=False))
    _check(plan, tensors)
    cut: dict[int, Tensor] = {}
    for name, axes in plan.kept.items():
        if name in tensors and axes is not None:
            _assign(modules, name, _shared(cut, tensors[name], _cut(tensors[name], axes)))
    for name, shape in plan.added.items():
        _add_bias(modules, name, shape)
    for path, module in modules.items():
        _refresh(path, module, plan)
    if plan.probe is not None:
        check_probe(small, plan.probe)
    return small


def _check(plan: Plan, tensors: dict[str, Tensor]) -> None:
    hint = "use the class and arguments that the pruned model was made from"
    for name, shape in plan.shapes.items():
        if name not in tensors:
            if name.endswith("_index"):
                continue
            raise PlanError(f"the plan names {name}, which the model does not have", hint)
        if list(tensors[name].shape) != list(shape):
            raise PlanError(
                f"{name} is {tuple(tensors[name].shape)} in the model and {tuple(shape)} in the plan", hint
            )
    for name in plan.kept:
        if name not in plan.shapes:
            raise PlanError(f"the plan keeps {name[:120]!r}, whose shape it does not say", hint)
    for name, tensor in tensors.items():
        for axis, places in (plan.kept.get(name) or {}).items():
            if axis >= tensor.dim() or not _are_places(places, axis, tensor.shape[axis]):
                raise PlanError(f"what the plan keeps of {name} along axis {axis} is not in it", hint)
    gone = [
        name for name, axes in plan.kept.items() if axes is None and not name.endswith("num_batches_tracked")
    ]
    if gone:
        more = ", ..." if len(gone) > 1 else ""
        what = f"the plan removes whole layers ({gone[0]}{more}), which the class still calls"
        raise LayersGoneError(what, "use the .pt2 instead, which needs no class")


def _are_places(places: Any, axis: int, size: int) -> bool:
    """Whether they are sorted indices below ``size``; along axis 1 there may be a list for every group."""
    if axis == 1 and places and all(isinstance(part, list) for part in places):
        return all(place in range(size) for part in places for place in part)
    return (
        all(isinstance(place, int) for place in places)
        and all(a < b for a, b in itertools.pairwise(places))
        and (not places or (places[0] >= 0 and places[-1] < size))
    )


def _shared(cut: dict[int, Tensor], old: Tensor, new: Tensor) -> Tensor:
    """The same new tensor for tied names."""
    return cut.setdefault(id(old), new)


def _cut(tensor: Tensor, axes: Axes) -> Tensor:
    value = tensor.detach()
    nested = 1 in axes and bool(axes[1]) and isinstance(axes[1][0], list)
    for axis, places in axes.items():
        if not (axis == 1 and nested):
            value = value.index_select(axis, torch.as_tensor(places, dtype=torch.int64, device=value.device))
    if nested:
        rows = value.chunk(len(axes[1]))
        value = torch.cat([part[:, columns] for part, columns in zip(rows, axes[1], strict=True)])
    value = value.clone()
    return (
        nn.Parameter(value, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
    )


def _assign(modules: dict[str, nn.Module], name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = modules[path]
    if leaf in module._parameters:
        module._parameters[leaf] = value  # type: ignore[assignment]
    else:
        module._buffers[leaf] = value


def _add_bias(modules: dict[str, nn.Module], name: str, shape: list[int]) -> None:
    path, _, leaf = name.rpartition(".")
    module = modules.get(path)
    hint = "use the .pt2 instead, or prune with fold off"
    if module is None or leaf not in module._parameters or module._parameters[leaf] is not None:
        raise PlanError(f"the pruned network has {name}, for which the class has no place", hint)
    like = next(module.parameters())
    module._parameters[leaf] = nn.Parameter(torch.zeros(shape, dtype=like.dtype, device=like.device))


def _refresh(path: str, module: nn.Module, plan: Plan) -> None:
    for kind, setter in _SIZES.items():
        if isinstance(module, kind):
            setter(path, module, plan)
            return


def _axes(path: str, leaf: str, plan: Plan) -> Axes:
    return plan.kept.get(f"{path}.{leaf}" if path else leaf) or {}


def _conv(path: str, module: Any, plan: Plan) -> None:
    weight: Tensor = module.weight
    axes = _axes(path, "weight", plan)
    groups = module.groups
    if groups > 1 and 0 in axes:
        height = (module.in_channels if module.transposed else module.out_channels) // groups
        module.groups = len({place // height for place in axes[0]})
    if module.transposed:
        module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
    else:
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups


def _linear(path: str, module: Any, plan: Plan) -> None:
    module.out_features, module.in_features = module.weight.shape


def _norm(path: str, module: Any, plan: Plan) -> None:
    for leaf in ("weight", "running_mean"):
        tensor = getattr(module, leaf)
        if tensor is not None:
            module.num_features = len(tensor)
            return


def _group_norm(path: str, module: Any, plan: Plan) -> None:
    if module.weight is not None:
        module.num_groups = module.num_groups * len(module.weight) // module.num_channels
        module.num_channels = len(module.weight)


def _embedding(path: str, module: Any, plan: Plan) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _prelu(path: str, module: Any, plan: Plan) -> None:
    module.num_parameters = len(module.weight)


_SIZES: dict[type[nn.Module], Callable[[str, Any, Plan], None]] = {
    nn.modules.conv._ConvNd: _conv,
    nn.Linear: _linear,
    nn.modules.batchnorm._NormBase: _norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.PReLU: _prelu,
}
