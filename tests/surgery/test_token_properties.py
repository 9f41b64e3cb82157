"""Random networks over tokens (attention, gated and plain MLPs, norms, embeddings) with random zeros."""

import contextlib
import random

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sslcli.errors import GraphError

WIDTH = 8


class SelfAttention(nn.Module):
    """Fused or written out, with one qkv layer or three, with or without a mask."""

    def __init__(self, rng):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.fused, self.joined, self.masked = rng.random() < 0.5, rng.random() < 0.6, rng.random() < 0.3
        names = ["qkv"] if self.joined else ["q", "k", "v"]
        for name in names:
            setattr(self, name, nn.Linear(WIDTH, WIDTH * (3 if self.joined else 1)))
        self.proj = nn.Linear(WIDTH, WIDTH)

    def heads(self, x):
        b, n, _ = x.shape
        if self.joined:
            return self.qkv(x).reshape(b, n, 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4).unbind(0)
        return [layer(x).view(b, n, 2, WIDTH // 2).transpose(1, 2) for layer in (self.q, self.k, self.v)]

    def forward(self, x):
        q, k, v = self.heads(self.norm(x))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.masked)
        else:
            scores = q @ k.transpose(-2, -1) / (WIDTH // 2) ** 0.5
            if self.masked:
                hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(hidden, float("-inf"))
            y = scores.softmax(-1) @ v
        return x + self.proj(y.transpose(1, 2).flatten(2))


class TorchAttention(nn.Module):
    def __init__(self, rng):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x):
        return x + self.attention(x, x, x, need_weights=False)[0]


class Mlp(nn.Module):
    def __init__(self, rng):
        super().__init__()
        self.norm = rng.choice([nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH), nn.Identity()])
        self.fc1, self.fc2 = nn.Linear(WIDTH, 6), nn.Linear(6, WIDTH)
        self.act = rng.choice([F.gelu, F.relu, F.silu, torch.tanh])

    def forward(self, x):
        return x + self.fc2(self.act(self.fc1(self.norm(x))))


class Gated(nn.Module):
    def __init__(self, rng):
        super().__init__()
        self.joined = rng.random() < 0.5
        self.up = nn.Linear(WIDTH, 12 if self.joined else 6)
        self.gate = nn.Linear(WIDTH, 6)
        self.down = nn.Linear(6, WIDTH, bias=False)

    def forward(self, x):
        if self.joined:
            a, b = self.up(x).chunk(2, -1)
            return x + self.down(F.silu(a) * b)
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


class Scaled(nn.Module):
    def __init__(self, rng):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + self.scale * self.fc(x)


class Mixing(nn.Module):
    """A convolution along the tokens, depthwise or full."""

    def __init__(self, rng):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=rng.choice([1, WIDTH]))

    def forward(self, x):
        return x + self.conv(x.transpose(1, 2)).transpose(1, 2).relu()


PIECES = [SelfAttention, TorchAttention, Mlp, Gated, Scaled, Mixing]


class Tokens(nn.Module):
    def __init__(self, kinds, head, seed):
        super().__init__()
        rng = random.Random(seed)
        self.embed = nn.Embedding(9, WIDTH)
        self.position = nn.Parameter(torch.zeros(1, 5, WIDTH))
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH)) if rng.random() < 0.5 else None
        self.pieces = nn.Sequential(*(kind(rng) for kind in kinds))
        self.head = head
        self.out = nn.Linear(WIDTH * 5 if head == "flatten" else WIDTH, 3)

    def forward(self, tokens):
        x = self.embed(tokens)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x[:, 1:]], 1)
        x = self.pieces(x + self.position)
        if self.head == "tied":
            return F.linear(x, self.embed.weight)
        if self.head == "first":
            return self.out(x[:, 0])
        return self.out(x.flatten(1) if self.head == "flatten" else x.mean(1))


@torch.no_grad()
def zero_at_random(net, rng):
    """Single units, the same unit of all heads, whole heads and whole layers, in rows and in columns."""

    def units(size):
        way = rng.choice(["some", "strided", "half"])
        if way == "some" or size % 4:
            return [i for i in range(size) if rng.random() < 0.3]
        at = rng.randrange(4)
        return list(range(at, size, 4)) if way == "strided" else list(range(size // 2))

    for layer in net.modules():
        if not isinstance(layer, (nn.Linear, nn.Conv1d)):
            continue
        way = rng.choices(["none", "rows", "silent", "columns", "layer"], [3, 2, 2, 3, 0.3])[0]
        if way in ("rows", "silent"):
            places = units(layer.weight.shape[0])
            layer.weight[places] = 0
            if way == "silent" and layer.bias is not None:
                layer.bias[places] = 0
        elif way == "columns":
            layer.weight[:, units(layer.weight.shape[1])] = 0
        elif way == "layer":
            layer.weight.zero_()


networks = st.tuples(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=3),
    st.sampled_from(["mean", "first", "flatten", "tied"]),
    st.integers(0, 10**6),
)


def zeros_are_removed_exactly(prove, network):
    kinds, head, seed = network
    torch.manual_seed(seed)
    net = prove.randomised(Tokens(kinds, head, seed), seed)
    zero_at_random(net, random.Random(seed))
    example = (torch.randint(0, 9, (2, 5), generator=torch.Generator().manual_seed(seed)),)
    with torch.no_grad():
        outputs = [net((example[0] + shift) % 9) for shift in range(9)]
    if all(torch.allclose(outputs[0], other, rtol=1e-12, atol=1e-12) for other in outputs):
        with contextlib.suppress(GraphError):  # or it is constant by its numbers only, and pruned like any
            prove(net, example, threshold=0.0, tolerance=1e-9)
        return
    once = prove(net, example, threshold=0.0, tolerance=1e-9)
    twice = prove(once.model, example, threshold=0.0, tolerance=1e-9)
    assert prove.kept(twice) == {}


def common(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@common(8)
@example(network=([Mixing, Gated], "mean", 3340))  # a part of a split with nothing left of it
@given(network=networks)
def test_random_zeros_in_networks_over_tokens_are_removed_exactly(prove, network):
    zeros_are_removed_exactly(prove, network)


@pytest.mark.slow
@common(200)
@given(network=networks)
def test_many_random_zeros_in_networks_over_tokens_are_removed_exactly(prove, network):
    zeros_are_removed_exactly(prove, network)
