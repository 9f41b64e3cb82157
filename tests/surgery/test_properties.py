"""Random networks of the pieces that real ones are made of, with random slices set to zero.

A network is a list of pieces, applied one after the other to an image of a few channels; some pieces reach
back to earlier results. Everything else (widths, groups, which slices are zero) follows from a seed, so
that a failing example shrinks to a short list of pieces.
"""

import math
import random

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sslcli.errors import SslcliError, TargetError
from sslcli.graph.groups import find_groups
from sslcli.graph.slots import analyse
from sslcli.graph.trace import trace
from sslcli.surgery.measure import group_rms

SIZE = 8


class Piece(nn.Module):
    """One step from the results so far to the next; ``build`` is called once the channels are known."""

    def __init__(self, channels, rng):
        super().__init__()
        self.channels = channels
        self.build(channels, rng)

    def build(self, channels, rng):
        pass


def divisor(number, rng):
    return rng.choice([d for d in range(1, number + 1) if number % d == 0 and number // d > 1] or [1])


class Conv(Piece):
    def build(self, channels, rng):
        self.channels = rng.choice([4, 6, 8])
        kernel, bias = rng.choice([1, 3]), rng.random() < 0.8
        self.conv = nn.Conv2d(channels, self.channels, kernel, padding=kernel // 2, bias=bias)

    def forward(self, past):
        return self.conv(past[-1])


class Grouped(Piece):
    def build(self, channels, rng):
        groups = divisor(channels, rng)
        self.channels = groups * rng.choice([1, 2])
        self.conv = nn.Conv2d(channels, self.channels, 3, padding=1, groups=groups)

    def forward(self, past):
        return self.conv(past[-1])


class Depthwise(Piece):
    def build(self, channels, rng):
        self.channels = channels * rng.choice([1, 1, 2])
        self.conv = nn.Conv2d(channels, self.channels, 3, padding=1, groups=channels)

    def forward(self, past):
        return self.conv(past[-1])


class Norm(Piece):
    def build(self, channels, rng):
        kinds = [nn.BatchNorm2d, lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True)]
        kinds.append(lambda c: nn.GroupNorm(divisor(c, rng), c))
        self.norm = rng.choice(kinds[:1] * 3 + kinds[1:])(channels)

    def forward(self, past):
        return self.norm(past[-1])


class Activation(Piece):
    def build(self, channels, rng):
        self.act = rng.choice(
            [nn.ReLU(inplace=True), nn.GELU(), nn.Hardswish(inplace=True), nn.Sigmoid(), nn.PReLU(channels)]
        )

    def forward(self, past):
        return self.act(past[-1].clone())


class Residual(Piece):
    def build(self, channels, rng):
        width = rng.choice([3, 4])
        self.a, self.b = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, past):
        return past[-1] + self.norm(self.b(self.a(past[-1]).relu()))


class Concat(Piece):
    def forward(self, past):
        return torch.cat([past[-1], *self.partners(past)], 1)

    def build(self, channels, rng):
        self.itself = rng.random() < 0.3
        self.channels = channels * 2 if self.itself else channels + 3

    def partners(self, past):
        return [past[-1]] if self.itself else [past[0][:, :, : past[-1].shape[2], : past[-1].shape[3]]]


class Split(Piece):
    def build(self, channels, rng):
        self.at = rng.randrange(1, channels) if channels > 1 else 1

    def forward(self, past):
        a, b = past[-1][:, : self.at], past[-1][:, self.at :]
        return torch.cat([b.relu(), a], 1)


class Shuffle(Piece):
    def build(self, channels, rng):
        self.groups = divisor(channels, rng)

    def forward(self, past):
        b, c, h, w = past[-1].shape
        return past[-1].view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class SqueezeExcite(Piece):
    def build(self, channels, rng):
        self.down, self.up = nn.Conv2d(channels, 3, 1), nn.Conv2d(3, channels, 1)

    def forward(self, past):
        s = self.down(F.adaptive_avg_pool2d(past[-1], 1)).relu()
        return past[-1] * self.up(s).sigmoid()


class Mask(Piece):
    def build(self, channels, rng):
        self.conv = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, past):
        return past[-1] * self.conv(past[-1]).sigmoid()


class LayerScale(Piece):
    def build(self, channels, rng):
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, past):
        return self.gamma * past[-1]


class PaddedShortcut(Piece):
    def build(self, channels, rng):
        self.before, self.after = rng.choice([0, 1, 2]), rng.choice([0, 1, 2])
        self.channels = channels + self.before + self.after
        self.conv = nn.Conv2d(channels, self.channels, 3, padding=1)

    def forward(self, past):
        return F.pad(past[-1], (0, 0, 0, 0, self.before, self.after)) + self.conv(past[-1])


class PixelShuffle(Piece):
    def build(self, channels, rng):
        self.conv = nn.Conv2d(channels, 8, 1)
        self.channels = 2

    def forward(self, past):
        return F.max_pool2d(F.pixel_shuffle(self.conv(past[-1]), 2), 2)


class Reorder(Piece):
    def build(self, channels, rng):
        order = rng.sample(range(channels), channels)
        self.how = rng.choice([lambda y: y.flip(1), lambda y: y.roll(1, 1), lambda y: y[:, order]])

    def forward(self, past):
        return self.how(past[-1])


class SliceAdd(Piece):
    def build(self, channels, rng):
        self.upto = max(1, channels // 2)

    def forward(self, past):
        y = past[-1] * 1
        y[:, : self.upto] += 2
        return y


class Pool(Piece):
    def build(self, channels, rng):
        self.pool = rng.choice([nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.Identity()])

    def forward(self, past):
        return self.pool(past[-1])


class Upsampled(Piece):
    def build(self, channels, rng):
        self.channels = 4
        self.conv = nn.ConvTranspose2d(channels, 4, 3, padding=1, groups=2 if channels % 2 == 0 else 1)

    def forward(self, past):
        return self.conv(past[-1])


PIECES = [
    Conv, Grouped, Depthwise, Norm, Activation, Residual, Concat, Split, Shuffle, SqueezeExcite, Mask,
    LayerScale, PaddedShortcut, PixelShuffle, Reorder, SliceAdd, Pool, Upsampled,
]  # fmt: skip
HEADS = ["flatten", "nhwc", "mean", "conv"]


class Pieces(nn.Module):
    def __init__(self, kinds, head, seed):
        super().__init__()
        rng = random.Random(seed)
        self.head = head
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        channels, pieces = 4, []
        for kind in kinds:
            pieces.append(kind(channels, rng))
            channels = pieces[-1].channels
        self.pieces = nn.ModuleList(pieces)
        inner = channels if head == "mean" else channels * 4
        self.last = nn.Conv2d(channels, 2, 1) if head == "conv" else nn.Linear(inner, 2)

    def forward(self, x):
        past = [x, self.first(x)]
        for piece in self.pieces:
            past.append(piece(past))
        y = past[-1]
        if self.head == "conv":
            return self.last(y)
        if self.head == "mean":
            return self.last(y.mean((2, 3)))
        y = F.adaptive_avg_pool2d(y, 2)
        return self.last(y.permute(0, 2, 3, 1).flatten(1) if self.head == "nhwc" else y.flatten(1))


@torch.no_grad()
def zero_at_random(net, rng):
    """Rows with and without their shifts, columns, kernels, single kernel places, scales, whole layers."""

    def some(count):
        return [i for i in range(count) if rng.random() < 0.3]

    for layer in net.modules():
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, nn.Parameter):
            continue
        places = some(weight.shape[0])
        if weight.dim() < 2:
            weight[places if rng.random() < 0.3 else []] = 0
            continue
        ways = ["none", "rows", "silent", "columns", "kernels", "places", "layer"]
        way = rng.choices(ways, [3, 2, 3, 3, 1, 1, 0.2])[0]
        if way in ("rows", "silent"):
            weight[places] = 0
        if way == "silent" and layer.bias is not None and layer.bias.shape[0] == weight.shape[0]:
            layer.bias[places] = 0
        if way == "columns":
            weight[:, some(weight.shape[1])] = 0
        if way == "kernels":
            weight[torch.rand(weight.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.5] = 0
        if way == "places" and weight.dim() == 4:
            weight[:, :, 0] = 0
        if way == "layer":
            weight.zero_()
            if layer.bias is not None and rng.random() < 0.7:
                layer.bias.zero_()


networks = st.tuples(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=6), st.sampled_from(HEADS), st.integers(0, 10**6)
)


def made(prove, network):
    kinds, head, seed = network
    torch.manual_seed(seed)
    net = prove.randomised(Pieces(kinds, head, seed), seed)
    generator = torch.Generator().manual_seed(seed)
    return net, (torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64, generator=generator),)


def is_constant(net, example):
    """Whether no input moves an output."""
    with torch.no_grad():
        outputs = [net(torch.randn_like(example[0])) for _ in range(3)]
    return all(torch.allclose(outputs[0], other, rtol=1e-12, atol=1e-12) for other in outputs)


def common(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def zeros_are_removed_exactly(prove, network):
    net, example = made(prove, network)
    zero_at_random(net, random.Random(network[2]))
    if is_constant(net, example):
        with pytest.raises(SslcliError):
            prove(net, example, threshold=0.0)
        return
    once = prove(net, example, threshold=0.0, tolerance=1e-9)
    assert not once.plan.zeroed
    assert not once.plan.zeroed_blocks
    twice = prove(once.model, example, threshold=0.0, tolerance=1e-9)
    assert prove.kept(twice) == {}
    assert twice.report.macs_after == once.report.macs_after


def a_target_is_met_exactly(prove, network, share):
    net, example = made(prove, network)
    assume(not is_constant(net, example))
    try:
        result = prove(net, example, target={"macs": share}, tolerance=1e-9)
    except TargetError:
        assume(False)
    assert result.report.macs_after <= share * result.report.macs_before * (1 + 1e-9)
    assert result.plan.zeroed or result.plan.zeroed_blocks


def a_share_gives_the_masked_original(prove, network, kind, share):
    """No layer loses more than its share (nor the branches together), unless it had lost more already."""
    net, example = made(prove, network)
    zero_at_random(net, random.Random(network[2]))
    structure = analyse(trace(net, example))
    before = structure.program.weights()
    sets = find_groups(structure, kind)
    assume(sets)
    try:
        result = prove(net, example, shares={kind: share}, tolerance=1e-9)
    except SslcliError:  # nothing would be left, or so few groups that the share is none
        assume(False)
    after = prove.masked(before, result.plan)
    most: dict[str, list[int]] = {}  # of a layer, whose filters may be of several sets; of all branches
    for found in sets:
        zero, already = (int((group_rms(found, weights) == 0).sum()) for weights in (after, before))
        filters = {view.name: math.prod(view.shape[axis] for axis in view.dims) for view in found.views}
        own = {"all branches" if kind == "depth" else found.label: found.count}
        for name, count in (filters if kind == "filter" else own).items():
            known = most.setdefault(name, [0, 0, 0])
            known[0], known[1] = known[0] + zero, known[1] + already
            known[2] = count if kind == "filter" else known[2] + count
    for zero, already, count in most.values():
        assert zero <= max(int(share * count + 1e-9), already)


@common(25)
@example(network=([Upsampled, Activation, Pool, Reorder, Concat, Split], "mean", 201338))  # joined, unneeded
@given(network=networks)
def test_random_zeros_are_removed_exactly(prove, network):
    zeros_are_removed_exactly(prove, network)


@common(10)
@given(network=networks, align=st.sampled_from([2, 4]))
def test_rounded_up_is_still_exact(prove, network, align):
    """Dead filters that are kept for the kernels' sake; a result is rounded already."""
    net, example = made(prove, network)
    zero_at_random(net, random.Random(network[2]))
    assume(not is_constant(net, example))
    once = prove(net, example, threshold=0.0, align=align, tolerance=1e-9)
    assert prove.kept(prove(once.model, example, threshold=0.0, align=align, tolerance=1e-9)) == {}


@common(10)
@given(network=networks, share=st.sampled_from([0.5, 0.7, 0.9]))
def test_a_target_gives_the_masked_original(prove, network, share):
    a_target_is_met_exactly(prove, network, share)


@common(15)
@given(
    network=networks, kind=st.sampled_from(["filter", "shape", "filter2d"]), share=st.sampled_from([0.3, 0.6])
)
def test_a_share_gives_the_masked_original(prove, network, kind, share):
    a_share_gives_the_masked_original(prove, network, kind, share)


@pytest.mark.slow
@common(150)
@given(
    network=networks,
    kind=st.sampled_from(["filter", "shape", "filter2d", "depth"]),
    share=st.sampled_from([0.2, 0.5, 0.8]),
)
def test_many_shares_give_the_masked_original(prove, network, kind, share):
    a_share_gives_the_masked_original(prove, network, kind, share)


@pytest.mark.slow
@common(400)
@given(network=networks)
def test_many_random_zeros_are_removed_exactly(prove, network):
    zeros_are_removed_exactly(prove, network)


@pytest.mark.slow
@common(150)
@given(network=networks, share=st.sampled_from([0.3, 0.5, 0.7, 0.9]))
def test_many_targets_give_the_masked_original(prove, network, share):
    a_target_is_met_exactly(prove, network, share)
