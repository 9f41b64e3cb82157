import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import sslcli


class Net(nn.Module):
    """A network from named modules and parameters, and a function of itself and its inputs."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.function(self, *inputs)


@torch.no_grad()
def randomised(net, seed=0):
    """Random norms too, in eval mode and float64: fresh norms hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
        if name.endswith("running_var"):
            tensor.abs_().add_(0.5)
    return net.double().eval()


@torch.no_grad()
def zero(net, *places):
    """Set slices to zero: (name, axis, indices), or (name,) for the whole tensor."""
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    for name, *place in places:
        if place:
            tensors[name].index_fill_(place[0], torch.tensor(place[1]), 0)
        else:
            tensors[name].zero_()
    return net


def plain(kept):
    """``plan.kept`` with plain lists and integers."""
    return {
        name: None if axes is None else {int(axis): _lists(indices) for axis, indices in axes.items()}
        for name, axes in kept.items()
    }


def _lists(indices):
    return [_lists(i) if not isinstance(i, int) and hasattr(i, "__iter__") else int(i) for i in indices]


def size_after(shape, axes):
    """Elements left of a tensor, from the plan alone; unequal groups are as wide as the widest."""
    if axes is None:
        return 0
    sizes = list(shape)
    for axis, indices in axes.items():
        nested = indices and isinstance(indices[0], list)
        sizes[axis] = max(map(len, indices)) if nested else len(indices)
    return math.prod(sizes)


@torch.no_grad()
def operations(net, inputs):
    """Floating-point operations of a run, counted by torch (which misses attention's fused kernels)."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            net(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops()


def leaves(output):
    return [x for x in torch.utils._pytree.tree_leaves(output) if isinstance(x, torch.Tensor)]


def distance(got, wanted):
    """The largest relative error over all outputs."""
    got, wanted = leaves(got), leaves(wanted)
    assert [x.shape for x in got] == [x.shape for x in wanted]
    return max(
        ((a - b).abs().max() / (b.abs().max() + 1e-12)).item() for a, b in zip(got, wanted, strict=True)
    )


def fresh_inputs(example, batch, seed):
    """Other inputs of the same kind with another batch."""
    generator = torch.Generator().manual_seed(seed)

    def like(x):
        shape = (batch, *x.shape[1:])
        if x.is_floating_point():
            return torch.randn(shape, generator=generator, dtype=x.dtype)
        return torch.randint(0, int(x.max()) + 1, shape, generator=generator)

    return tuple(like(x) for x in example)


@torch.no_grad()
def masked(tensors, plan):
    """Copies of tensors by name, with what the plan says it zeroed."""
    tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    for name, axes in plan.zeroed.items():
        for axis, indices in axes.items():
            tensors[name].index_fill_(int(axis), torch.as_tensor(list(indices), dtype=torch.long), 0)
    for name, blocks in plan.zeroed_blocks.items():
        for block in blocks:
            chosen = torch.ones((), dtype=torch.bool)
            for axis, size in enumerate(tensors[name].shape):
                along = torch.zeros(size, dtype=torch.bool)
                along[list(block[axis]) if axis in block else slice(None)] = True
                chosen = chosen.unsqueeze(-1) & along
            tensors[name][chosen] = 0
    return tensors


def masked_net(net, plan):
    """The untouched original with what the plan says it zeroed."""
    net = copy.deepcopy(net)
    tensors = dict(net.named_parameters(remove_duplicate=False)) | dict(net.named_buffers())
    with torch.no_grad():
        for name, tensor in masked(tensors, plan).items():
            tensors[name].copy_(tensor)
    return net


def prune_and_prove(net, example, folder, *, tolerance=1e-10, **choice):
    """Prune, and hold everything that the contract promises against the original; returns the result."""
    before = copy.deepcopy(net.state_dict())
    result = sslcli.prune(net, example, **choice)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    reference = masked_net(net, result.plan)
    path = folder / "small.pt2"
    sslcli.save(result, path)
    reloaded = torch.export.load(path).module()
    with torch.no_grad():
        for batch in (1, 2, 5):
            inputs = fresh_inputs(example, batch, seed=batch)
            wanted = reference(*inputs)
            assert distance(result.model.eval()(*inputs), wanted) <= tolerance
            assert distance(reloaded(*inputs), wanted) <= tolerance
    kept = plain(result.plan.kept)
    known = {name for name, _ in net.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in net.named_buffers(remove_duplicate=False)}
    assert set(kept) <= known
    planned = sum(size_after(p.shape, kept.get(name, {})) for name, p in net.named_parameters())
    small = dict(result.model.named_parameters())
    planned += sum(math.prod(shape) for name, shape in result.plan.added.items() if name in small)
    held = sum(p.numel() for p in result.model.parameters())
    assert result.report.params_before == sum(p.numel() for p in net.parameters())
    assert result.report.params_after == held == planned
    flops = operations(net, example)
    assert operations(result.model, example) / flops == pytest.approx(
        result.report.macs_after / result.report.macs_before, rel=1e-9
    )
    return result


@pytest.fixture
def prove(tmp_path):
    """``prove(net, example, threshold=0.0)`` prunes and checks; see ``prune_and_prove``."""

    def run(net, example, **choice):
        return prune_and_prove(net, example, tmp_path, **choice)

    run.net = lambda forward, **parts: randomised(Net(forward, **parts))
    run.zero = zero
    run.kept = lambda result: plain(result.plan.kept)
    run.randomised = randomised
    run.distance = distance
    run.masked = masked
    return run
