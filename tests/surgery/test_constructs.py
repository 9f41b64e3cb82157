"""Hand-derived results of pruning for each construct that networks are made of.

Every case names the slices that are set to zero and what must be kept, worked out by hand from the
construct. A unit dies in one of two ways: *unread*, when all columns that read it are zero, or *silent*,
when all that writes it is zero, shifts included. All other weights, biases and norms are random.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import sslcli
from sslcli.errors import SslcliError


def conv(*sizes, kernel=3, padding=1, **options):
    return nn.Conv2d(*sizes, kernel, padding=padding, **options)


def rows(name, keep):
    return {f"{name}.weight": {0: keep}, f"{name}.bias": {0: keep}}


def cols(name, keep):
    return {f"{name}.weight": {1: keep}}


def norm(name, keep):
    return {f"{name}.{leaf}": {0: keep} for leaf in ("weight", "bias", "running_mean", "running_var")}


def gone(*names):
    return dict.fromkeys(names)


def both(*parts):
    """The union of what parts say, axis by axis."""
    merged: dict[str, Any] = {}
    for part in parts:
        for name, axes in part.items():
            merged[name] = None if axes is None else {**(merged.get(name) or {}), **axes}
    return merged


def without(count, *dropped):
    return [i for i in range(count) if i not in dropped]


@dataclass(frozen=True)
class Case:
    name: str
    forward: Any
    parts: Any  # makes the named modules and parameters
    shape: tuple[int, ...]
    zeros: list[tuple[Any, ...]]
    kept: dict[str, Any]
    tokens: int = 0  # the input is integers below this


IMAGE = (2, 3, 5, 5)


def chain(middle):
    """conv1 -> something on its six channels -> conv2."""
    return lambda net, x: net.conv2(middle(net, net.conv1(x)))


def pair(**more):
    return lambda: {"conv1": conv(3, 6), "conv2": conv(6, 4), **{k: make() for k, make in more.items()}}


PLAIN_KEPT = both(rows("conv1", [0, 2, 3, 5]), norm("bn", [0, 2, 3, 5]), cols("conv2", [0, 2, 3, 5]))


def shuffle(net, y):
    b, c, h, w = y.shape
    return y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def attention(net, x, *, fused):
    b, n, d = x.shape
    q, k, v = net.qkv(x).reshape(b, n, 3, 2, d // 2).permute(2, 0, 3, 1, 4).unbind(0)
    scores = None if fused else (q @ k.transpose(-2, -1)) * 0.5
    y = F.scaled_dot_product_attention(q, k, v) if scores is None else scores.softmax(-1) @ v
    return net.proj(y.transpose(1, 2).reshape(b, n, -1))


def option_a(net, x):
    y = net.stem(x)
    shortcut = F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
    return net.head((shortcut + net.down(y)).relu())


def squeeze_excite(net, x):
    y = net.conv1(x)
    s = F.relu(net.fc1(F.adaptive_avg_pool2d(y, 1)))
    return net.conv2(y * torch.sigmoid(net.fc2(s)))


def masked_by_one_channel(net, x):
    y = net.conv1(x)
    return net.conv2(y * torch.sigmoid(net.mask(y)))


def residual(net, x):
    y = net.stem(x)
    y = y + net.b(net.a(y).relu())
    return net.head(y.mean((2, 3)))


def tied_embedding(net, tokens):
    return F.linear(net.fc(net.embed(tokens)), net.embed.weight)


def with_class_token(net, x):
    tokens = net.fc(x)
    return net.head(torch.cat([net.token.expand(x.shape[0], -1, -1), tokens], 1) + net.position)


SILENT = {"stem": [2, 5], "b": [2, 4], "a": [0]}

CASES = [
    Case(
        "batch_norm, unread",
        lambda net, x: net.conv2(net.bn(net.conv1(x)).relu()),
        pair(bn=lambda: nn.BatchNorm2d(6)),
        IMAGE,
        [("conv2.weight", 1, [1, 4])],
        PLAIN_KEPT,
    ),
    Case(
        "batch_norm, silent",
        lambda net, x: net.conv2(net.bn(net.conv1(x)).relu()),
        pair(bn=lambda: nn.BatchNorm2d(6)),
        IMAGE,
        [(name, 0, [1, 4]) for name in ("conv1.weight", "conv1.bias", "bn.weight", "bn.bias")],
        PLAIN_KEPT,
    ),
    Case(
        "residual, unread",
        residual,
        lambda: {"stem": conv(3, 6), "a": conv(6, 5), "b": conv(5, 6), "head": nn.Linear(6, 4)},
        IMAGE,
        [("a.weight", 1, [2, 5]), ("head.weight", 1, [2, 5, 0])],
        both(
            rows("stem", [0, 1, 3, 4]),
            cols("a", [0, 1, 3, 4]),
            rows("b", [0, 1, 3, 4]),
            cols("head", [0, 1, 3, 4]),
        ),
    ),
    Case(
        "residual, silent, and inside the branch",
        residual,
        lambda: {"stem": conv(3, 6), "a": conv(6, 5), "b": conv(5, 6), "head": nn.Linear(6, 4)},
        IMAGE,
        [(f"{layer}.{leaf}", 0, units) for layer, units in SILENT.items() for leaf in ("weight", "bias")],
        both(
            rows("stem", without(6, 2)),
            cols("a", without(6, 2)),
            rows("a", without(5, 0)),
            cols("b", without(5, 0)),
            rows("b", without(6, 2)),
            cols("head", without(6, 2)),
        ),
    ),
    Case(
        "residual, read by one of two",
        residual,
        lambda: {"stem": conv(3, 6), "a": conv(6, 5), "b": conv(5, 6), "head": nn.Linear(6, 4)},
        IMAGE,
        [("a.weight", 1, [2, 5])],
        {},
    ),
    Case(
        "concatenation with the input",
        lambda net, x: net.conv2(torch.cat([x, net.conv1(x)], 1)),
        lambda: {"conv1": conv(3, 4), "conv2": conv(7, 4)},
        IMAGE,
        [("conv2.weight", 1, [0, 4, 6])],
        both(rows("conv1", [0, 2]), cols("conv2", [0, 1, 2, 3, 5])),
    ),
    Case(
        "concatenation with itself",
        chain(lambda net, y: torch.cat([y, y], 1)),
        lambda: {"conv1": conv(3, 4), "conv2": conv(8, 4)},
        IMAGE,
        [("conv2.weight", 1, [1, 2, 5])],
        both(rows("conv1", [0, 2, 3]), cols("conv2", [0, 2, 3, 4, 6, 7])),
    ),
    Case(
        "channel shuffle, evenly",
        chain(shuffle),
        lambda: {"conv1": conv(3, 8), "conv2": conv(8, 4)},
        IMAGE,
        [("conv2.weight", 1, [2, 5])],  # place 2 is channel 1, place 5 is channel 6
        both(rows("conv1", without(8, 1, 6)), cols("conv2", without(8, 2, 5))),
    ),
    Case(
        "channel shuffle, unevenly",
        chain(shuffle),
        lambda: {"conv1": conv(3, 8), "conv2": conv(8, 4)},
        IMAGE,
        [("conv2.weight", 1, [0, 2])],  # channels 0 and 1, both of the first half
        both(rows("conv1", without(8, 0, 1)), cols("conv2", without(8, 0, 2))),
    ),
    Case(
        "flip of channels",
        chain(lambda net, y: y.flip(1)),
        pair(),
        IMAGE,
        [("conv2.weight", 1, [0, 2])],
        both(rows("conv1", [0, 1, 2, 4]), cols("conv2", [1, 3, 4, 5])),
    ),
    Case(
        "flip of rows and columns of the image",
        chain(lambda net, y: y.flip(2, 3)),
        pair(),
        IMAGE,
        [("conv2.weight", 1, [0, 2])],
        both(rows("conv1", without(6, 0, 2)), cols("conv2", without(6, 0, 2))),
    ),
    Case(
        "roll of channels",
        chain(lambda net, y: y.roll(2, 1)),
        pair(),
        IMAGE,
        [("conv2.weight", 1, [0, 3])],  # place i holds channel i - 2
        both(rows("conv1", without(6, 4, 1)), cols("conv2", without(6, 0, 3))),
    ),
    Case(
        "NCHW flatten",
        lambda net, x: net.fc(net.conv1(x).relu().flatten(1)),
        lambda: {"conv1": conv(3, 4), "fc": nn.Linear(16, 3)},
        (2, 3, 2, 2),
        [("fc.weight", 1, [4, 5, 6, 7, 8])],
        both(rows("conv1", [0, 2, 3]), cols("fc", without(16, 4, 5, 6, 7))),
    ),
    Case(
        "NHWC permute and flatten",
        lambda net, x: net.fc(net.conv1(x).permute(0, 2, 3, 1).flatten(1)),
        lambda: {"conv1": conv(3, 4), "fc": nn.Linear(16, 3)},
        (2, 3, 2, 2),
        [("fc.weight", 1, [1, 5, 9, 13, 2])],
        both(rows("conv1", [0, 2, 3]), cols("fc", without(16, 1, 5, 9, 13))),
    ),
    Case(
        "hard-coded view",
        lambda net, x: net.fc(net.conv1(x).view(-1, 4 * 2 * 2)),
        lambda: {"conv1": conv(3, 4), "fc": nn.Linear(16, 3)},
        (2, 3, 2, 2),
        [("fc.weight", 1, [0, 1, 2, 3])],
        both(rows("conv1", [1, 2, 3]), cols("fc", list(range(4, 16)))),
    ),
    Case(
        "hard-coded view with the batch",
        lambda net, x: net.fc(net.conv1(x).view(x.shape[0], 4, 2 * 2).mean(2)),
        lambda: {"conv1": conv(3, 4), "fc": nn.Linear(4, 3)},
        (2, 3, 2, 2),
        [("fc.weight", 1, [2])],
        both(rows("conv1", [0, 1, 3]), cols("fc", [0, 1, 3])),
    ),
    Case(
        "option-A padded shortcut",
        option_a,
        lambda: {"stem": conv(3, 4), "down": conv(4, 8, stride=2), "head": conv(8, 3)},
        IMAGE,
        # channel i of the stem is channel i + 2 of the sum
        [("head.weight", 1, [0, 3]), ("down.weight", 1, [1])],
        both(
            rows("stem", [0, 2, 3]),
            rows("down", without(8, 0, 3)),
            cols("down", [0, 2, 3]),
            cols("head", without(8, 0, 3)),
        ),
    ),
    Case(
        "pixel shuffle",
        chain(lambda net, y: F.pixel_shuffle(y, 2)),
        lambda: {"conv1": conv(3, 12), "conv2": conv(3, 4)},
        IMAGE,
        [("conv2.weight", 1, [1]), ("conv1.weight", 0, [0]), ("conv1.bias", 0, [0])],
        both(rows("conv1", without(12, 4, 5, 6, 7)), cols("conv2", [0, 2])),
    ),
    Case(
        "pixel unshuffle",
        chain(lambda net, y: F.pixel_unshuffle(y, 2)),
        lambda: {"conv1": conv(3, 3), "conv2": conv(12, 4)},
        (2, 3, 4, 4),
        [("conv2.weight", 1, [0, 1, 2, 3, 8])],
        both(rows("conv1", [1, 2]), cols("conv2", list(range(4, 12)))),
    ),
    Case(
        "depthwise with multiplier",
        lambda net, x: net.pw(net.dw(net.conv1(x)).relu()),
        lambda: {"conv1": conv(3, 4), "dw": conv(4, 8, groups=4), "pw": conv(8, 3, kernel=1, padding=0)},
        IMAGE,
        [("pw.weight", 1, [2, 3, 4])],
        both(rows("conv1", [0, 2, 3]), rows("dw", without(8, 2, 3)), cols("pw", without(8, 2, 3))),
    ),
    Case(
        "grouped convolution",
        lambda net, x: net.conv2(net.g(net.conv1(x)).relu()),
        lambda: {"conv1": conv(3, 6), "g": conv(6, 4, groups=2), "conv2": conv(4, 3)},
        IMAGE,
        # inputs 1 (first group) and 3 (second group) silent, outputs 0 and 3 unread
        [("conv1.weight", 0, [1, 3]), ("conv1.bias", 0, [1, 3]), ("conv2.weight", 1, [0, 3])],
        both(
            rows("conv1", [0, 2, 4, 5]),
            rows("g", [1, 2]),
            cols("g", [[0, 2], [1, 2]]),
            cols("conv2", [1, 2]),
        ),
    ),
    Case(
        "grouped transposed convolution",
        lambda net, x: net.conv2(net.up(net.conv1(x)).relu()),
        lambda: {
            "conv1": conv(3, 4),
            "up": nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2),
            "conv2": conv(6, 3),
        },
        IMAGE,
        # its weight is (in, out of a group, kh, kw); outputs 1 and 5 unread, inputs 0 and 3 unread
        [("conv2.weight", 1, [1, 5]), ("up.weight", 0, [0, 3])],
        both(
            rows("conv1", [1, 2]),
            {"up.weight": {0: [1, 2], 1: [[0, 2], [0, 1]]}, "up.bias": {0: [0, 2, 3, 4]}},
            cols("conv2", [0, 2, 3, 4]),
        ),
    ),
    Case(
        "transposed convolution",
        lambda net, x: net.conv2(net.up(net.conv1(x)).relu()),
        lambda: {"conv1": conv(3, 4), "up": nn.ConvTranspose2d(4, 5, 3), "conv2": conv(5, 3)},
        IMAGE,
        [("conv2.weight", 1, [4]), ("conv1.weight", 0, [1]), ("conv1.bias", 0, [1])],
        both(
            rows("conv1", [0, 2, 3]),
            {"up.weight": {0: [0, 2, 3], 1: [0, 1, 2, 3]}, "up.bias": {0: [0, 1, 2, 3]}},
            cols("conv2", [0, 1, 2, 3]),
        ),
    ),
    Case(
        "tracked instance norm",
        chain(lambda net, y: net.inorm(y).relu()),
        pair(inorm=lambda: nn.InstanceNorm2d(6, affine=True, track_running_stats=True)),
        IMAGE,
        [("conv2.weight", 1, [1, 4])],
        both(rows("conv1", [0, 2, 3, 5]), norm("inorm", [0, 2, 3, 5]), cols("conv2", [0, 2, 3, 5])),
    ),
    Case(
        "instance norm of the image itself",
        chain(lambda net, y: net.inorm(y).relu()),
        pair(inorm=lambda: nn.InstanceNorm2d(6, affine=True)),
        IMAGE,
        [("conv2.weight", 1, [0])],
        both(rows("conv1", without(6, 0)), rows("inorm", without(6, 0)), cols("conv2", without(6, 0))),
    ),
    Case(
        "group norm goes by whole groups",
        chain(lambda net, y: net.gn(y).relu()),
        lambda: {"conv1": conv(3, 8), "gn": nn.GroupNorm(4, 8), "conv2": conv(8, 3)},
        IMAGE,
        [("conv2.weight", 1, [2, 3, 4])],
        both(rows("conv1", without(8, 2, 3)), rows("gn", without(8, 2, 3)), cols("conv2", without(8, 2, 3))),
    ),
    Case(
        "layer norm pins what it mixes",
        lambda net, x: net.fc2(net.ln(net.fc1(x))),
        lambda: {"fc1": nn.Linear(4, 6), "ln": nn.LayerNorm(6), "fc2": nn.Linear(6, 3)},
        (2, 4),
        [("fc2.weight", 1, [2])],
        {},
    ),
    Case(
        "local response norm pins what it mixes",
        chain(lambda net, y: F.local_response_norm(y, 3)),
        pair(),
        IMAGE,
        [("conv2.weight", 1, [2])],
        {},
    ),
    Case(
        "mean over channels pins them",
        lambda net, x: net.conv2(net.conv1(x).mean(1, keepdim=True)),
        lambda: {"conv1": conv(3, 6), "conv2": conv(1, 4)},
        IMAGE,
        [("conv1.weight", 0, [2]), ("conv1.bias", 0, [2])],
        {},
    ),
    Case(
        "softmax over channels pins them",
        chain(lambda net, y: y.softmax(1)),
        pair(),
        IMAGE,
        [("conv2.weight", 1, [2])],
        {},
    ),
    Case(
        "an operator that nobody knows pins its operands",
        chain(lambda net, y: torch.sort(y, dim=1).values),
        pair(),
        IMAGE,
        [("conv2.weight", 1, [2])],
        {},
    ),
    Case(
        "weight norm, unread",
        lambda net, x: net.conv2(net.conv1(x).relu()),
        lambda: {"conv1": weight_norm(conv(3, 6)), "conv2": conv(6, 4)},
        IMAGE,
        [("conv2.weight", 1, [1, 4])],
        both(
            {f"conv1.parametrizations.weight.original{i}": {0: [0, 2, 3, 5]} for i in (0, 1)},
            {"conv1.bias": {0: [0, 2, 3, 5]}},
            cols("conv2", [0, 2, 3, 5]),
        ),
    ),
    Case(
        "weight norm, silent through its magnitude",
        lambda net, x: net.conv2(net.conv1(x).relu()),
        lambda: {"conv1": weight_norm(conv(3, 6)), "conv2": conv(6, 4)},
        IMAGE,
        [("conv1.parametrizations.weight.original0", 0, [3]), ("conv1.bias", 0, [3])],
        both(
            {f"conv1.parametrizations.weight.original{i}": {0: without(6, 3)} for i in (0, 1)},
            {"conv1.bias": {0: without(6, 3)}},
            cols("conv2", without(6, 3)),
        ),
    ),
    Case(
        "unfold",
        lambda net, x: net.matrix @ F.unfold(net.conv1(x), 2),
        lambda: {"conv1": conv(3, 4), "matrix": nn.Parameter(torch.zeros(3, 16))},
        IMAGE,
        [("matrix", 1, [4, 5, 6, 7, 8])],
        both(rows("conv1", [0, 2, 3]), {"matrix": {1: without(16, 4, 5, 6, 7)}}),
    ),
    Case(
        "index_select with repetition; what is never selected goes",
        chain(lambda net, y: torch.index_select(y, 1, torch.tensor([3, 0, 0, 2]))),
        lambda: {"conv1": conv(3, 4), "conv2": conv(4, 3)},
        IMAGE,
        [("conv2.weight", 1, [3, 1])],
        both(rows("conv1", [0, 3]), cols("conv2", [0, 1, 2])),
    ),
    Case(
        "indexing with a list",
        chain(lambda net, y: y[:, [5, 1, 3, 2]]),
        lambda: {"conv1": conv(3, 6), "conv2": conv(4, 3)},
        IMAGE,
        [("conv2.weight", 1, [0])],
        both(rows("conv1", [1, 2, 3]), cols("conv2", [1, 2, 3])),
    ),
    Case(
        "qkv reshape, one dimension of every head",
        lambda net, x: attention(net, x, fused=False),
        lambda: {"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)},
        (2, 5, 8),
        [("qkv.weight", 0, [1, 5, 9, 13]), ("qkv.bias", 0, [1, 5, 9, 13]), ("proj.weight", 1, [1, 5])],
        both(rows("qkv", without(24, 1, 5, 9, 13, 17, 21)), cols("proj", without(8, 1, 5))),
    ),
    Case(
        "qkv reshape, a head",
        lambda net, x: attention(net, x, fused=False),
        lambda: {"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)},
        (2, 5, 8),
        [("proj.weight", 1, [4, 5, 6, 7])],
        both(rows("qkv", [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19]), cols("proj", [0, 1, 2, 3])),
    ),
    Case(
        "fused attention, a head",
        lambda net, x: attention(net, x, fused=True),
        lambda: {"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)},
        (2, 5, 8),
        [("proj.weight", 1, [0, 1, 2, 3])],
        both(rows("qkv", [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]), cols("proj", [4, 5, 6, 7])),
    ),
    Case(
        "fused attention keeps its default scale when a dimension goes",
        lambda net, x: attention(net, x, fused=True),
        lambda: {"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)},
        (2, 5, 8),
        [("qkv.weight", 0, [1, 5, 9, 13]), ("qkv.bias", 0, [1, 5, 9, 13]), ("proj.weight", 1, [1, 5])],
        both(rows("qkv", without(24, 1, 5, 9, 13, 17, 21)), cols("proj", without(8, 1, 5))),
    ),
    Case(
        "broadcast mask",
        masked_by_one_channel,
        lambda: {"conv1": conv(3, 6), "mask": conv(6, 1), "conv2": conv(6, 4)},
        IMAGE,
        [("mask.weight", 1, [0, 3]), ("conv2.weight", 1, [0, 3, 5])],
        both(rows("conv1", [1, 2, 4, 5]), cols("mask", [1, 2, 4, 5]), cols("conv2", [1, 2, 4, 5])),
    ),
    Case(
        "sum with one number for all",
        lambda net, x: net.conv2(net.conv1(x)) + x.mean(),
        lambda: {"conv1": conv(3, 6), "conv2": conv(6, 4)},
        IMAGE,
        [("conv2.weight", 1, [0, 3])],
        both(rows("conv1", [1, 2, 4, 5]), cols("conv2", [1, 2, 4, 5])),
    ),
    Case(
        "squeeze and excite",
        squeeze_excite,
        lambda: {
            "conv1": conv(3, 6),
            "fc1": conv(6, 3, kernel=1, padding=0),
            "fc2": conv(3, 6, kernel=1, padding=0),
            "conv2": conv(6, 4),
        },
        IMAGE,
        [
            ("fc1.weight", 1, [1, 4]),
            ("conv2.weight", 1, [1, 4]),
            ("fc1.weight", 0, [2]),
            ("fc1.bias", 0, [2]),
        ],
        both(
            rows("conv1", [0, 2, 3, 5]),
            rows("fc1", [0, 1]),
            cols("fc1", [0, 2, 3, 5]),
            rows("fc2", [0, 2, 3, 5]),
            cols("fc2", [0, 1]),
            cols("conv2", [0, 2, 3, 5]),
        ),
    ),
    Case(
        "one block applied twice",
        lambda net, x: net.head(net.block(net.block(net.stem(x)).relu()).relu()),
        lambda: {"stem": conv(3, 4), "block": conv(4, 4), "head": conv(4, 2)},
        IMAGE,
        [("block.weight", 1, [1]), ("head.weight", 1, [1, 2])],
        both(
            rows("stem", [0, 2, 3]),
            rows("block", [0, 2, 3]),
            cols("block", [0, 2, 3]),
            cols("head", [0, 2, 3]),
        ),
    ),
    Case(
        "3d convolution",
        lambda net, x: net.conv2(F.max_pool3d(net.bn(net.conv1(x)).relu(), 2)),
        lambda: {
            "conv1": nn.Conv3d(2, 6, 3, padding=1),
            "bn": nn.BatchNorm3d(6),
            "conv2": nn.Conv3d(6, 3, 2),
        },
        (2, 2, 4, 4, 4),
        [("conv2.weight", 1, [1, 4])],
        PLAIN_KEPT,
    ),
    Case(
        "1d convolution",
        lambda net, x: net.conv2(F.max_pool1d(net.bn(net.conv1(x)).relu(), 2)),
        lambda: {
            "conv1": nn.Conv1d(2, 6, 3, padding=1),
            "bn": nn.BatchNorm1d(6),
            "conv2": nn.Conv1d(6, 3, 2),
        },
        (2, 2, 8),
        [("conv2.weight", 1, [1, 4])],
        PLAIN_KEPT,
    ),
    Case(
        "shared embedding",
        tied_embedding,
        lambda: {"embed": nn.Embedding(11, 6), "fc": nn.Linear(6, 6)},
        (2, 5),
        [("fc.weight", 1, [2]), ("fc.weight", 0, [2, 4]), ("fc.bias", 0, [2, 4])],
        both({"embed.weight": {1: without(6, 2)}}, rows("fc", without(6, 2)), cols("fc", without(6, 2))),
        tokens=11,
    ),
    Case(
        "GLU",
        lambda net, x: net.fc2(F.glu(net.fc1(x), -1)),
        lambda: {"fc1": nn.Linear(4, 12), "fc2": nn.Linear(6, 3)},
        (2, 4),
        [("fc2.weight", 1, [1, 5])],
        both(rows("fc1", without(12, 1, 5, 7, 11)), cols("fc2", without(6, 1, 5))),
    ),
    Case(
        "SwiGLU by chunk, silent through either half",
        lambda net, x: net.fc2((lambda a, b: F.silu(a) * b)(*net.fc1(x).chunk(2, -1))),
        lambda: {"fc1": nn.Linear(4, 12), "fc2": nn.Linear(6, 3)},
        (2, 4),
        # unit 1 is silent through its gate (silu(0) = 0), unit 2 through its value
        [("fc1.weight", 0, [1, 8]), ("fc1.bias", 0, [1, 8])],
        both(rows("fc1", without(12, 1, 2, 7, 8)), cols("fc2", without(6, 1, 2))),
    ),
    Case(
        "PReLU",
        chain(lambda net, y: net.prelu(y)),
        pair(prelu=lambda: nn.PReLU(6)),
        IMAGE,
        [("conv2.weight", 1, [1, 4])],
        both(rows("conv1", [0, 2, 3, 5]), {"prelu.weight": {0: [0, 2, 3, 5]}}, cols("conv2", [0, 2, 3, 5])),
    ),
    Case(
        "layer scale",
        chain(lambda net, y: net.gamma * y),
        pair(gamma=lambda: nn.Parameter(torch.zeros(6, 1, 1))),
        IMAGE,
        [("gamma", 0, [1, 4])],
        both(rows("conv1", [0, 2, 3, 5]), {"gamma": {0: [0, 2, 3, 5]}}, cols("conv2", [0, 2, 3, 5])),
    ),
    Case(
        "class token and positions",
        with_class_token,
        lambda: {
            "fc": nn.Linear(4, 6),
            "token": nn.Parameter(torch.zeros(1, 1, 6)),
            "position": nn.Parameter(torch.zeros(1, 6, 6)),
            "head": nn.Linear(6, 2),
        },
        (2, 5, 4),
        [("head.weight", 1, [3])],
        both(
            rows("fc", without(6, 3)),
            {"token": {2: without(6, 3)}, "position": {2: without(6, 3)}},
            cols("head", without(6, 3)),
        ),
    ),
    Case(
        "stack and sum",
        lambda net, x: net.conv2(torch.stack([net.a(x), net.b(x)], 1).sum(1)),
        lambda: {"a": conv(3, 4), "b": conv(3, 4), "conv2": conv(4, 3)},
        IMAGE,
        [("conv2.weight", 1, [2])],
        both(rows("a", [0, 1, 3]), rows("b", [0, 1, 3]), cols("conv2", [0, 1, 3])),
    ),
    Case(
        "split, swapped and joined",
        chain(lambda net, y: torch.cat(list(y.split([2, 4], 1))[::-1], 1)),
        pair(),
        IMAGE,
        [("conv2.weight", 1, [0, 4])],  # the halves are swapped: places 0..3 are channels 2..5
        both(rows("conv1", without(6, 2, 0)), cols("conv2", without(6, 0, 4))),
    ),
    Case(
        "chunk, each half on its own way",
        lambda net, x: net.conv2(
            (lambda a, b: torch.cat([a.relu(), net.inner(b)], 1))(*net.conv1(x).chunk(2, 1))
        ),
        pair(inner=lambda: conv(3, 3)),
        IMAGE,
        # the first half is read by conv2, the second by inner
        [("conv2.weight", 1, [0, 4]), ("inner.weight", 1, [2])],
        both(
            rows("conv1", without(6, 0, 5)),
            rows("inner", [0, 2]),
            cols("inner", [0, 1]),
            cols("conv2", without(6, 0, 4)),
        ),
    ),
    Case(
        "slice leaves the rest unread",
        chain(lambda net, y: y[:, 1:5]),
        lambda: {"conv1": conv(3, 6), "conv2": conv(4, 3)},
        IMAGE,
        [("conv2.weight", 1, [1])],
        both(rows("conv1", [1, 3, 4]), cols("conv2", [0, 2, 3])),
    ),
    Case(
        "unbind and select",
        chain(lambda net, y: torch.stack([y.unbind(1)[4], y.select(1, 0), y[:, 2]], 1)),
        lambda: {"conv1": conv(3, 6), "conv2": conv(3, 3)},
        IMAGE,
        [("conv2.weight", 1, [1])],
        both(rows("conv1", [2, 4]), cols("conv2", [0, 2])),
    ),
    Case(
        "repeat",
        chain(lambda net, y: y.repeat(1, 2, 1, 1)),
        lambda: {"conv1": conv(3, 3), "conv2": conv(6, 4)},
        IMAGE,
        [("conv2.weight", 1, [1, 4, 5])],
        both(rows("conv1", [0, 2]), cols("conv2", [0, 2, 3, 5])),
    ),
    Case(
        "in-place on a slice of channels",
        chain(lambda net, y: _add_to_slice(y)),
        pair(),
        IMAGE,
        [("conv2.weight", 1, [1, 5])],
        both(rows("conv1", without(6, 1, 5)), cols("conv2", without(6, 1, 5))),
    ),
    Case(
        "interpolate, average pooling and dropout",
        chain(
            lambda net, y: F.interpolate(F.dropout(F.avg_pool2d(y, 2), 0.5, net.training), scale_factor=2.0)
        ),
        pair(),
        (2, 3, 4, 4),
        [("conv2.weight", 1, [1, 5])],
        both(rows("conv1", without(6, 1, 5)), cols("conv2", without(6, 1, 5))),
    ),
    Case(
        "einsum",
        lambda net, x: torch.einsum("bchw,cd->bdhw", net.conv1(x), net.matrix),
        lambda: {"conv1": conv(3, 6), "matrix": nn.Parameter(torch.zeros(6, 4))},
        IMAGE,
        [("matrix", 0, [1])],
        both(rows("conv1", without(6, 1)), {"matrix": {0: without(6, 1)}}),
    ),
    Case(
        "transformer MLP, hidden units",
        lambda net, x: x + net.fc2(F.gelu(net.fc1(net.ln(x)))),
        lambda: {"ln": nn.LayerNorm(4), "fc1": nn.Linear(4, 7), "fc2": nn.Linear(7, 4)},
        (2, 5, 4),
        [("fc2.weight", 1, [0, 6]), ("fc1.weight", 0, [3]), ("fc1.bias", 0, [3])],
        both(rows("fc1", [1, 2, 4, 5]), cols("fc2", [1, 2, 4, 5])),
    ),
    Case(
        "constants go into the next bias",
        lambda net, x: net.conv2(net.conv1(x).relu()),
        lambda: {"conv1": conv(3, 6), "conv2": conv(6, 4, padding=0)},
        IMAGE,
        [("conv1.weight", 0, [1, 4])],
        both(rows("conv1", [0, 2, 3, 5]), cols("conv2", [0, 2, 3, 5])),
    ),
    Case(
        "constants through a norm go into the next bias",
        lambda net, x: net.fc(net.bn(net.conv1(x)).relu().mean((2, 3))),
        lambda: {"conv1": conv(3, 6), "bn": nn.BatchNorm2d(6), "fc": nn.Linear(6, 4)},
        IMAGE,
        [("conv1.weight", 0, [1, 4])],
        both(rows("conv1", [0, 2, 3, 5]), norm("bn", [0, 2, 3, 5]), cols("fc", [0, 2, 3, 5])),
    ),
    Case(
        "columns and kernels are not channels",
        lambda net, x: net.conv2(net.conv1(x).relu()),
        pair(),
        IMAGE,
        [("conv2.weight", 2, [0])],
        {},
    ),
    Case(
        "outputs are never cut",
        lambda net, x: (net.conv1(x), net.conv2(net.conv1(x))),
        pair(),
        IMAGE,
        [
            ("conv1.weight", 0, [0]),
            ("conv1.bias", 0, [0]),
            ("conv2.weight", 0, [1]),
            ("conv2.weight", 1, [2]),
        ],
        {},
    ),
]


def _add_to_slice(y):
    y[:, :4] += 2
    return y


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kept_is_as_derived_by_hand_and_outputs_are_the_same(case, prove):
    net = prove.zero(prove.net(case.forward, **case.parts()), *case.zeros)
    generator = torch.Generator().manual_seed(7)
    if case.tokens:
        example = torch.randint(0, case.tokens, case.shape, generator=generator)
    else:
        example = torch.randn(case.shape, generator=generator, dtype=torch.float64)
    result = prove(net, (example,), threshold=0.0)
    assert prove.kept(result) == case.kept
    assert not result.plan.zeroed
    assert not result.plan.zeroed_blocks


def image(*shape):
    return (torch.randn(shape or IMAGE, dtype=torch.float64),)


def test_frozen_models_are_pruned_and_stay_frozen(prove):
    net = prove.net(lambda net, x: net.conv2(net.conv1(x).relu()), **pair()())
    net.requires_grad_(False)
    prove.zero(net, ("conv2.weight", 1, [1, 4]))
    result = prove(net, image(), threshold=0.0)
    assert prove.kept(result) == both(rows("conv1", [0, 2, 3, 5]), cols("conv2", [0, 2, 3, 5]))
    assert not any(p.requires_grad for p in result.model.parameters())


def test_constants_under_zero_padding_are_merged_into_one_channel(prove):
    net = prove.net(lambda net, x: net.conv2(net.conv1(x)), **pair()())
    prove.zero(net, ("conv1.weight", 0, [0, 2, 5]))
    result = prove(net, image(), threshold=0.0)
    kept = prove.kept(result)["conv1.weight"][0]
    assert {1, 3, 4} < set(kept)
    assert len(kept) == 4


def test_a_zero_branch_is_gone(prove):
    net = prove.net(
        lambda net, x: net.head((lambda y: (y + net.bn(net.b(net.a(y).relu()))).relu())(net.stem(x))),
        stem=conv(3, 6), a=conv(6, 5), b=conv(5, 6), bn=nn.BatchNorm2d(6), head=conv(6, 2),
    )  # fmt: skip
    prove.zero(net, ("b.weight",), ("b.bias",), ("bn.weight",), ("bn.bias",))
    result = prove(net, image(), threshold=0.0)
    kept = prove.kept(result)
    kept.pop("bn.num_batches_tracked", None)
    assert kept == gone(
        "a.weight", "a.bias", "b.weight", "b.bias",
        "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var",
    )  # fmt: skip
    targets = [str(node.target) for node in result.model.program().graph.nodes]
    assert targets.count("aten.conv2d.default") == 2
    assert not any("add" in target or "batch_norm" in target for target in targets)


def test_a_branch_that_adds_a_constant_keeps_the_constant(prove):
    net = prove.net(
        lambda net, x: net.head((lambda y: y + net.b(net.a(y).relu()))(net.stem(x)).relu()),
        stem=conv(3, 6), a=conv(6, 5), b=conv(5, 6), head=conv(6, 2),
    )  # fmt: skip
    prove.zero(net, ("b.weight",))
    result = prove(net, image(), threshold=0.0)
    assert prove.kept(result).get("a.weight", {}) is None
    targets = [str(node.target) for node in result.model.program().graph.nodes]
    assert targets.count("aten.conv2d.default") == 2


def test_unequal_groups_stay_exact(prove):
    net = prove.net(
        lambda net, x: net.conv2(net.g(net.conv1(x)).relu()),
        conv1=conv(3, 6), g=conv(6, 4, groups=2), conv2=conv(4, 3),
    )  # fmt: skip
    prove.zero(net, ("conv1.weight", 0, [0, 1, 3]), ("conv1.bias", 0, [0, 1, 3]), ("conv2.weight", 1, [0]))
    prove(net, image(), threshold=0.0)


def test_pruning_twice_changes_nothing(prove):
    net = prove.net(lambda net, x: net.conv2(net.conv1(x).relu()), **pair()())
    prove.zero(net, ("conv2.weight", 1, [1, 4]), ("conv1.weight", 0, [2]))
    once = prove(net, image(), threshold=0.0)
    twice = prove(once.model, image(), threshold=0.0)
    assert prove.kept(twice) == {}
    assert twice.report.macs_after == once.report.macs_after


def test_a_dead_network_is_an_error(prove):
    net = prove.net(lambda net, x: net.conv2(net.conv1(x).relu()), **pair()())
    prove.zero(net, ("conv2.weight",))
    with pytest.raises(SslcliError, match=r"(?i)dead|constant|nothing"):
        sslcli.prune(net, image(), threshold=0.0)


def test_a_threshold_removes_small_groups_and_says_which(prove):
    net = prove.net(lambda net, x: net.conv2(net.conv1(x).relu()), **pair()())
    with torch.no_grad():
        net.conv1.weight[[1, 4]] *= 1e-6
        net.conv1.bias[[1, 4]] = 0
    result = prove(net, image(), threshold=1e-4)
    assert prove.kept(result)["conv1.weight"][0] == [0, 2, 3, 5]
    assert sorted(result.plan.zeroed["conv1.weight"][0]) == [1, 4]
    assert prove.kept(prove(net, image(), threshold=0.0)) == {}


class TiedUnread(nn.Module):
    """Tied embeddings, and a layer that is never read."""

    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight
        self.unread = nn.Linear(4, 4)

    def forward(self, tokens):
        return self.out(self.fc(self.embed(tokens)))


def test_tied_weights_count_once_and_what_is_never_read_is_left_alone(prove):
    net = prove.zero(
        prove.randomised(TiedUnread()), ("fc.weight", 1, [2]), ("fc.weight", 0, [2]), ("fc.bias", 0, [2])
    )
    result = prove(net, (torch.randint(0, 11, (2, 5)),), threshold=0.0)
    kept = prove.kept(result)
    keep = without(6, 2)
    assert kept.pop("out.weight", {1: keep}) == {1: keep}
    assert kept == both({"embed.weight": {1: keep}}, rows("fc", keep), cols("fc", keep))
    assert result.model.out.weight is result.model.embed.weight
    fresh = sslcli.apply_plan(TiedUnread().double(), result.plan)
    fresh.load_state_dict(result.model.state_dict())
    tokens = torch.randint(0, 11, (3, 5))
    assert prove.distance(fresh(tokens), net(tokens)) < 1e-12


def test_an_operand_of_one_channel_that_goes_is_gone_from_its_concatenation(prove):
    def forward(net, x):
        y = net.conv1(x)
        y = torch.cat([y[:, 3:].relu(), y[:, :3]], 1)
        return net.fc(torch.cat([y[:, 1:].relu(), y[:, :1]], 1).flip(1).sigmoid().mean((2, 3)))

    net = prove.net(forward, conv1=conv(3, 4), fc=nn.Linear(4, 2))
    prove.zero(net, ("conv1.weight", 0, [2, 3]), ("conv1.bias", 0, [2, 3]))
    result = prove(net, image(), threshold=0.0)
    assert prove.kept(result)["conv1.weight"] == {0: [0, 1]}


def test_constants_reach_results_that_are_known_but_stay(prove):
    """Rows 0..2 of fc2 are constants made by dead units of fc1; they stay, as their channels are alive."""
    net = prove.net(
        squeeze_excite,
        conv1=conv(3, 4), fc1=conv(4, 3, kernel=1, padding=0),
        fc2=conv(3, 4, kernel=1, padding=0), conv2=conv(4, 2),
    )  # fmt: skip
    with torch.no_grad():
        net.fc1.bias.copy_(torch.tensor([0.1, 0.3, 0.2]))
    prove.zero(net, ("fc1.weight", 0, [1, 2]), ("fc2.weight",))
    with torch.no_grad():
        net.fc2.weight[[0, 1, 2, 3], [1, 2, 1, 0]] = 0.5
    kept = prove.kept(prove(net, image(), threshold=0.0))
    assert kept == both(rows("fc1", [0]), cols("fc2", [0]))


def test_attention_whose_projection_is_zero_is_gone(prove):
    net = prove.net(
        lambda net, x: net.head(x + attention(net, x, fused=False)),
        qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8), head=nn.Linear(8, 2),
    )  # fmt: skip
    prove.zero(net, ("proj.weight",))
    result = prove(net, image(2, 5, 8), threshold=0.0)
    kept = prove.kept(result)
    assert kept["qkv.weight"] is kept["qkv.bias"] is kept["proj.weight"] is None
    assert not any("softmax" in str(node.target) for node in result.model.program().graph.nodes)


def test_a_gated_branch_of_constants_adds_its_constant(prove):
    net = prove.net(
        lambda net, x: net.head(x + net.down((lambda a, b: F.silu(a) * b)(*net.up(x).chunk(2, -1)))),
        up=nn.Linear(8, 12), down=nn.Linear(6, 8, bias=False), head=nn.Linear(8, 2),
    )  # fmt: skip
    prove.zero(net, ("up.weight",))
    kept = prove.kept(prove(net, image(2, 5, 8), threshold=0.0))
    assert kept["up.weight"] is kept["down.weight"] is None


def test_plans_compose_where_one_group_of_a_grouped_convolution_was_left():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 4, 3)).eval()
    with torch.no_grad():
        net[1].weight[4:], net[1].bias[4:] = 0, 0
        net[0].weight[0], net[0].bias[0] = 0, 0
    example = (torch.randn(2, 3, 9, 9),)
    once = sslcli.prune(net, example)
    assert once.plan.kept["1.weight"][1] == [[1, 2, 3]]
    weights = dict(once.model.named_parameters())
    with torch.no_grad():
        weights["0.weight"][0], weights["0.bias"][0] = 0, 0
    twice = sslcli.prune(once.model, example)
    assert once.plan.then(twice.plan).kept["1.weight"][1] == [[2, 3]]


@pytest.mark.parametrize(("alive", "align", "left"), [(5, 4, 8), (8, 4, 8), (11, 8, 11), (5, 1, 5)])
def test_rounding_up_keeps_dead_filters_to_a_multiple(prove, alive, align, left):
    """Of 12 filters some are alive; 16, which 11 would be rounded up to, there are not."""

    def forward(net, x):
        return net.last(net.second(net.first(x).relu()).relu().mean((2, 3)))

    net = prove.net(forward, first=nn.Conv2d(3, 12, 3), second=nn.Conv2d(12, 6, 3), last=nn.Linear(6, 2))
    dead = list(range(alive, 12))
    prove.zero(net, ("first.weight", 0, dead), ("first.bias", 0, dead))
    result = prove(net, image(), threshold=0.0, align=align)
    kept = {} if left == 12 else {0: list(range(left))}
    assert prove.kept(result)["first.weight"] == kept
    assert prove.kept(result)["second.weight"] == {1: list(range(left))}


@pytest.mark.parametrize(
    ("layer", "side", "whole"),
    [
        (nn.Conv2d(8, 8, 3, groups=2), "inputs", True),  # its weight is computed, so no column of it goes
        (nn.Conv2d(8, 8, 3, groups=2), "outputs", False),
        (nn.ConvTranspose2d(8, 8, 2, groups=2), "inputs", False),
        (nn.ConvTranspose2d(8, 8, 2, groups=2), "outputs", True),
    ],
    ids=["conv inputs", "conv outputs", "transposed inputs", "transposed outputs"],
)
def test_rows_of_a_weight_normed_grouped_convolution_go_and_its_columns_stay(layer, side, whole, prove):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), weight_norm(layer), nn.ReLU(), nn.Conv2d(8, 4, 1))
    net, example = net.double(), (torch.randn(2, 1, 8, 8, dtype=torch.float64),)
    with torch.no_grad():
        if side == "inputs":
            net[0].weight[[0, 4]] = 0
            net[0].bias[[0, 4]] = 0
        else:
            net[4].weight[:, [0, 4]] = 0
    report = prove(net.eval(), example, threshold=0.0).report
    assert (report.macs_after == report.macs_before) == whole
