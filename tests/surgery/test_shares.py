"""Shares: of each layer's groups the smallest, until the share is gone; sizes are set by hand."""

import pytest
import torch
from torch import nn

import sslcli
from sslcli.errors import UsageError


def image(batch=2):
    return (torch.randn(batch, 3, 6, 6, dtype=torch.float64),)


def two_layers(prove):
    """conv1: 3 -> 8, conv2: 8 -> 4 of 3x3; filter i of conv1 has the size i + 1, so 0 is the smallest."""
    net = prove.net(
        lambda net, x: net.conv2(net.conv1(x).relu()),
        conv1=nn.Conv2d(3, 8, 3, padding=1),
        conv2=nn.Conv2d(8, 4, 3, padding=1),
    )
    with torch.no_grad():
        net.conv1.weight.copy_(torch.arange(1.0, 9).reshape(8, 1, 1, 1).expand(8, 3, 3, 3))
        # columns of conv2 by channel, then place: the later, the larger
        net.conv2.weight.copy_(torch.arange(1.0, 73).reshape(1, 8, 3, 3).expand(4, 8, 3, 3))
    return net


def test_a_quarter_of_the_filters_are_the_two_smallest_of_eight(prove):
    net = two_layers(prove)
    result = prove(net, image(), shares={"filter": {"conv1": 0.25}})
    assert prove.kept(result)["conv1.weight"] == {0: [2, 3, 4, 5, 6, 7]}
    assert prove.kept(result)["conv2.weight"] == {1: [2, 3, 4, 5, 6, 7]}
    assert result.plan.zeroed == {"conv1.weight": {0: [0, 1]}, "conv1.bias": {0: [0, 1]}}


def test_a_share_is_never_exceeded(prove):
    result = prove(two_layers(prove), image(), shares={"filter": {"conv1": 0.37}})  # 2.96 of 8
    assert len(prove.kept(result)["conv1.weight"][0]) == 6


def test_the_last_glob_that_matches_holds(prove):
    result = prove(two_layers(prove), image(), shares={"filter": {"*": 0.75, "conv1": 0.125}})
    assert prove.kept(result)["conv1.weight"][0] == [1, 2, 3, 4, 5, 6, 7]


def test_layers_that_are_kept_lose_nothing(prove):
    net = two_layers(prove)
    result = prove(net, image(), shares={"shape": 0.5}, keep=["conv2"])
    assert {*result.plan.zeroed, *result.plan.zeroed_blocks} == {"conv1.weight"}


def test_columns_that_went_with_filters_count(prove):
    """Two of eight filters take 18 of 72 columns along; half of the columns are 36, so 18 more go."""
    net = two_layers(prove)
    result = prove(net, image(), shares={"filter": {"conv1": 0.25}, "shape": {"conv2": 0.5}})
    weight = prove.masked(dict(net.named_parameters()), result.plan)["conv2.weight"]
    live = torch.nonzero(weight.flatten(1).any(0)).reshape(-1).tolist()
    assert live == [*range(18), *range(36, 72)]  # the first 18 go unzeroed, with their channels


def test_a_share_that_has_gone_already_takes_nothing_more(prove):
    net = two_layers(prove)
    result = prove(net, image(), shares={"filter": {"conv1": 0.25}, "shape": {"conv2": 0.2}})
    assert "conv2.weight" not in result.plan.zeroed | dict.fromkeys(result.plan.zeroed_blocks)


def test_zero_groups_count(prove):
    net = prove.zero(two_layers(prove), ("conv1.weight", 0, [7]), ("conv1.bias", 0, [7]))
    result = prove(net, image(), shares={"filter": {"conv1": 0.25}})
    assert prove.kept(result)["conv1.weight"][0] == [1, 2, 3, 4, 5, 6]


def test_a_residual_sum_is_one_set(prove):
    """stem and b write the same units; the sum of both squares decides."""
    net = prove.net(
        lambda net, x: net.head((lambda y: y + net.b(net.a(y).relu()))(net.stem(x)).relu()),
        stem=nn.Conv2d(3, 4, 3, padding=1), a=nn.Conv2d(4, 4, 3, padding=1),
        b=nn.Conv2d(4, 4, 3, padding=1), head=nn.Conv2d(4, 2, 3, padding=1),
    )  # fmt: skip
    with torch.no_grad():
        net.stem.weight.copy_(torch.tensor([4.0, 1, 1, 9]).reshape(4, 1, 1, 1).expand_as(net.stem.weight))
        net.b.weight.copy_(torch.tensor([1.0, 5, 1, 1]).reshape(4, 1, 1, 1).expand_as(net.b.weight))
    kept = prove.kept(prove(net, image(), shares={"filter": {"stem": 0.25}}))
    assert kept["stem.weight"][0] == kept["b.weight"][0] == [0, 1, 3]


def test_a_share_of_depth_is_of_all_branches(prove):
    def forward(net, x):
        x = net.stem(x)
        for branch in (net.b1, net.b2, net.b3):
            x = x + branch(x)
        return net.head(x)

    parts = {f"b{n}": nn.Conv2d(4, 4, 3, padding=1) for n in (1, 2, 3)}
    net = prove.net(forward, stem=nn.Conv2d(3, 4, 3, padding=1), head=nn.Conv2d(4, 2, 3, padding=1), **parts)
    with torch.no_grad():
        net.b2.weight *= 0.01
        net.b2.bias.zero_()
    kept = prove.kept(prove(net, image(), shares={"depth": 0.34}))
    assert kept == {"b2.weight": None, "b2.bias": None}


def test_filters_before_a_norm_go_with_their_shifts(prove):
    """Else the norm's shift would keep a constant channel alive."""
    net = prove.net(
        lambda net, x: net.conv2(net.bn(net.conv1(x)).relu()),
        conv1=nn.Conv2d(3, 8, 3, padding=1), bn=nn.BatchNorm2d(8), conv2=nn.Conv2d(8, 4, 3, padding=1),
    )  # fmt: skip
    with torch.no_grad():
        net.conv1.weight.copy_(torch.arange(1.0, 9).reshape(8, 1, 1, 1).expand(8, 3, 3, 3))
    for fold in (True, False):
        kept = prove.kept(prove(net, image(), shares={"filter": 0.5}, fold=fold))
        assert kept["conv1.weight"][0] == kept["bn.weight"][0] == [4, 5, 6, 7]


def test_filters_that_a_grouped_convolution_reads_go_one_from_every_group(prove):
    net = prove.net(
        lambda net, x: net.g(net.conv1(x)).relu().mean((2, 3)) @ torch.ones(8, 2, dtype=x.dtype),
        conv1=nn.Conv2d(3, 8, 3, padding=1),
        g=nn.Conv2d(8, 8, 3, padding=1, groups=4),
    )
    with torch.no_grad():
        net.conv1.weight.copy_(torch.arange(1.0, 9).reshape(8, 1, 1, 1).expand(8, 3, 3, 3))
    kept = prove.kept(prove(net, image(), shares={"filter": {"conv1": 0.5}}))
    assert kept["conv1.weight"][0] == [1, 3, 5, 7]


def test_filters_of_a_weight_normed_layer(prove):
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1))
    net = prove.net(
        lambda net, x: net.conv2(net.conv1(x).relu()), conv1=layer, conv2=nn.Conv2d(8, 4, 3, padding=1)
    )
    with torch.no_grad():
        layer.parametrizations.weight.original0.copy_(torch.arange(8.0, 0, -1).reshape(8, 1, 1, 1))
    for choice in ({"shares": {"filter": 0.25}}, {"threshold": 2.5, "structures": ("filter",)}):
        result = prove(net, image(), **choice)
        assert result.plan.zeroed["conv1.parametrizations.weight.original0"] == {0: [6, 7]}


def test_layers_keep_what_the_limits_say(prove):
    shares = {"filter": {"conv1": 0.75}}
    assert (
        len(prove.kept(prove(two_layers(prove), image(), shares=shares, min_width=5))["conv1.weight"][0]) == 5
    )
    limited = prove(two_layers(prove), image(), shares=shares, limit={"conv1": 0.25})
    assert len(prove.kept(limited)["conv1.weight"][0]) == 6


def test_a_branch_that_is_run_through_twice_is_one(prove):
    def forward(net, x):
        x = net.stem(x)
        for branch in (net.b1, net.b1, net.b2):
            x = x + branch(x)
        return net.head(x)

    parts = {f"b{n}": nn.Conv2d(4, 4, 3, padding=1) for n in (1, 2)}
    net = prove.net(forward, stem=nn.Conv2d(3, 4, 3, padding=1), head=nn.Conv2d(4, 2, 3, padding=1), **parts)
    with torch.no_grad():
        net.b1.weight *= 0.01
    assert set(prove(net, image(), shares={"depth": 0.5}).plan.zeroed) == {"b1.weight"}


def test_a_share_of_nearly_all_leaves_one(prove):
    result = prove(two_layers(prove), image(), shares={"filter": {"conv1": 0.999999999999}})
    assert prove.kept(result)["conv1.weight"][0] == [7]


@pytest.mark.parametrize(
    ("shares", "what"),
    [
        ({"filters": 0.5}, "there are no shares of 'filters'"),
        ({"filter": 1.0}, "the share of filter groups is 1"),
        ({"filter": {"conv1": 0.0}}, "the share of filter groups is 0"),
        ({"filter": "0.5"}, "the share of filter groups is 0.5"),
        ({"filter": {"conv9": 0.5}}, "the glob 'conv9' matches no layer with filter groups"),
        ({"head": 0.5}, r"the glob '\*' matches no layer with head groups"),
        ({"filter": {"conv1": 0.1}}, "the share 0.1 of the filter groups of 'conv1' is none of at most 8"),
    ],
)
def test_bad_shares_are_told(prove, shares, what):
    with pytest.raises(UsageError, match=what):
        sslcli.prune(two_layers(prove), image(), shares=shares)


def test_a_share_of_layers_that_are_kept_is_a_contradiction(prove):
    with pytest.raises(UsageError, match="of layers that are kept"):
        sslcli.prune(two_layers(prove), image(), shares={"filter": 0.5}, keep=["conv1"])
