import pytest
import torch
from torch import nn
from torch._ops import OpOverload

from sslcli.errors import GraphError
from sslcli.graph.trace import trace


class Of(nn.Module):
    """A network of one function of its input and of a few weights."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.fc = nn.Linear(8, 8)
        self.register_buffer("mask", torch.linspace(0, 1, 8).reshape(8, 1, 1))

    def forward(self, x):
        return self.function(self, x)


def slice_add(net, x):
    y = net.conv(x)
    y[:, :4] += 2
    return y


def nested_slices(net, x):
    y = net.conv(x)
    y[:, 2:5, 1:3] *= y[:, 5:8, 1:3]
    y[:, ::2, :, -1] -= 3
    return y


def view_of_a_view(net, x):
    y = net.conv(x)
    z = y.permute(0, 2, 3, 1).flatten(1, 2)
    z[..., 0] = 7
    z.transpose(1, 2)[:, 3].mul_(net.mask.flatten()[0])
    return y, z


def read_before_and_after(net, x):
    y = net.conv(x)
    before = y[:, 1] * 1
    y[:, 1] = 0
    return before, y[:, 1], y


def chain_of_in_place(net, x):
    y = nn.functional.relu_(net.conv(x))
    y.clamp_(0.1, 0.9).sub_(0.5).abs_()
    nn.functional.hardswish(y, inplace=True)
    nn.functional.dropout(y, 0.5, training=net.training, inplace=True)
    return y


def fill_zeros(net, x):
    y = net.conv(x)
    out = torch.zeros_like(y)
    out[:, ::2] = y[:, 1::2]
    out[:, 1].copy_(y[:, 3])
    out[:, 5, 2:4] = 1.5
    return out


def copy_broadcasts_and_casts(net, x):
    y = net.conv(x)
    out = y.new_zeros(y.shape, dtype=torch.float64)
    out.copy_(y[:, :1])
    return out.view(x.shape[0], -1)


def copy_of_permuted(net, x):
    y = net.conv(x)
    out = torch.empty_like(y).permute(0, 1, 3, 2).contiguous()
    out.copy_(y.transpose(2, 3))
    return out.view(x.shape[0], -1)


def index_put(net, x):
    y = net.conv(x)
    y[:, [0, 3]] = 1.0
    y[y > 0.5] = 0.25
    y.masked_fill_(y < 0, -1.0)
    return y


def pieces(net, x):
    y = net.conv(x) * 1
    with torch.no_grad():
        a, b = y.detach().chunk(2, 1)
        b.add_(a)
        c, _, _ = y.detach().split([1, 3, 4], 1)
        c.zero_()
    return y


def residual(net, x):
    y = net.conv(x)
    z = y.relu()
    z += y
    return z.mean((2, 3))


def in_place_keeps_dtype(net, x):
    y = net.conv(x)
    y += torch.arange(8, dtype=torch.float64).reshape(8, 1, 1) / 3
    return y


def reshaped_copy(net, x):
    y = net.conv(x).transpose(1, 2)
    z = y.reshape(x.shape[0], -1)  # a copy, since y is not contiguous
    z.mul_(2)
    return y, z


def comparisons(net, x):
    y = net.conv(x)
    y[:, 0].lt_(0)
    return y


CASES = [
    slice_add,
    nested_slices,
    view_of_a_view,
    read_before_and_after,
    chain_of_in_place,
    fill_zeros,
    copy_broadcasts_and_casts,
    copy_of_permuted,
    index_put,
    residual,
    in_place_keeps_dtype,
    reshaped_copy,
    comparisons,
]


def flat(output):
    return list(output) if isinstance(output, tuple) else [output]


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_are_the_same_to_the_bit_and_nothing_is_written(function, batch):
    torch.manual_seed(0)
    net = Of(function).eval()
    program = trace(net, torch.randn(2, 4, 6, 6))
    x = torch.randn(batch, 4, 6, 6)
    with torch.no_grad():
        wanted, got = flat(net(x)), flat(program.exported.module()(x))
    assert len(wanted) == len(got)
    for a, b in zip(wanted, got, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    assert not writing_nodes(program)


def test_pieces_of_a_split_write_through_where_inference_allows_it():
    torch.manual_seed(0)
    net = Of(pieces).eval()
    program = trace(net, torch.randn(2, 4, 6, 6))
    x = torch.randn(3, 4, 6, 6)
    with torch.no_grad():
        assert torch.equal(net(x), program.exported.module()(x))


def test_a_buffer_that_the_model_writes_to_is_written_once_at_the_end():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros(2))

        def forward(self, x):
            self.steps += 1
            y = x * self.steps[0]
            self.steps[1] += 2
            return y + self.steps

    program = trace(Counts(), torch.ones(2, 2))
    assert [node.target for node in writing_nodes(program)] == [torch.ops.aten.copy_.default]
    module = program.exported.module()
    assert module(torch.ones(1, 2)).tolist() == [[2.0, 4.0]]
    assert module(torch.ones(1, 2)).tolist() == [[4.0, 8.0]]


def test_a_written_input_is_left_alone_and_noted():
    program = trace(Of(lambda net, x: x.mul_(2) + 1), torch.ones(2, 3))
    x = torch.ones(3, 3)
    assert torch.equal(program.exported.module()(x), torch.full((3, 3), 3.0))
    assert torch.equal(x, torch.ones(3, 3))
    assert "writes to its input x" in program.notes[0]


def test_training_flags_survive():
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.3))
    program = trace(net, torch.randn(2, 4, 6, 6))
    found = {str(node.target): node.args for node in program.graph.nodes if node.op == "call_function"}
    assert found["aten.batch_norm.default"][5] is False
    assert found["aten.dropout.default"][1:] == (0.3, False)
    assert "aten.relu.default" in found


def test_a_no_grad_region_is_inlined_and_stops_the_gradient():
    def stopped(net, x):
        y = net.conv(x).mean((2, 3))
        with torch.no_grad():
            gate = torch.sigmoid(net.fc(y))
        return y * gate

    program = trace(Of(stopped), torch.randn(2, 4, 6, 6))
    assert {node.op for node in program.graph.nodes} == {"placeholder", "call_function", "output"}
    module = program.exported.module()
    module(torch.randn(3, 4, 6, 6)).sum().backward()
    assert module.fc.weight.grad is None
    assert module.conv.weight.grad is not None


def test_nodes_that_hand_on_their_input_are_gone():
    def idle(net, x):
        y = net.conv(x)[:]
        return y * torch.tensor([2.0]) + net.mask.detach()

    targets = {str(node.target) for node in trace(Of(idle), torch.randn(2, 4, 6, 6)).graph.nodes}
    assert not targets & {"aten.slice.Tensor", "aten.lift_fresh_copy.default", "aten.detach.default"}
    assert not targets & {"aten.detach_.default", "aten.view.default"}


def test_an_unsupported_write_names_operator_and_line():
    def unfolded(net, x):
        y = net.conv(x)
        y.unfold(2, 2, 2).mul_(2)
        return y

    with pytest.raises(GraphError, match=r"unfold.*test_functionalise\.py:\d+") as caught:
        trace(Of(unfolded), torch.randn(2, 4, 6, 6))
    assert caught.value.exit_code == 4


def writing_nodes(program):
    return [
        node
        for node in program.graph.nodes
        if isinstance(node.target, OpOverload) and node.target._schema.is_mutable
    ]
