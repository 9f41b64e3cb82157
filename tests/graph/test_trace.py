import copy
import dataclasses
from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from torch import nn

from sslcli.errors import GraphError
from sslcli.graph.module import TracedModule
from sslcli.graph.program import add_weight, rebuild
from sslcli.graph.trace import trace


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 4, 3),
            norm=nn.BatchNorm2d(4),
            act=nn.ReLU(),
            flat=nn.Flatten(),
            fc=nn.Linear(64, 5),
        )
    )


IMAGE = (2, 3, 6, 6)


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.make = make

    def forward(self, x):
        return self.make(self.fc(x))


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    net = small_net().train(training)
    net.norm.train(not training)
    modes = [module.training for module in net.modules()]
    before = copy.deepcopy(net.state_dict())
    rng = torch.get_rng_state()
    trace(net, torch.randn(IMAGE))
    torch.set_rng_state(rng)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert "forward" not in vars(net)


def test_global_state_is_left_as_it_was():
    net, x = small_net(), torch.randn(IMAGE)
    rng, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        trace(net, x)
        assert not torch.is_grad_enabled()
    assert torch.equal(rng, torch.get_rng_state())
    assert threads == torch.get_num_threads()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_any_example_batch_gives_a_dynamic_batch(batch):
    net = small_net().eval()
    program = trace(net, torch.randn(batch, *IMAGE[1:]))
    assert program.batch_symbol is not None
    assert program.batch_hint == max(2, batch)
    assert program.notes == ()
    module = program.exported.module()
    for size in (1, 3, 64):
        x = torch.randn(size, *IMAGE[1:])
        assert torch.equal(module(x), net(x))


def test_a_model_that_forbids_another_batch_is_traced_statically_with_a_note():
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(4, 3, -1).sum(0)

    program = trace(Fixed(), torch.randn(4, 3, 5))
    assert program.batch_symbol is None
    assert "the batch is fixed to 4" in program.notes[0]
    x = torch.randn(4, 3, 5)
    assert torch.equal(program.exported.module()(x), Fixed()(x))


def test_frozen_models_stay_frozen():
    net = small_net().requires_grad_(False)
    weights = trace(net, torch.randn(IMAGE)).weights()
    assert not any(tensor.requires_grad for tensor in weights.values())
    assert not any(p.requires_grad for p in TracedModule(trace(net, torch.randn(IMAGE))).parameters())


def test_weights_share_storage_and_have_their_own_names():
    net = small_net()
    program = trace(net, torch.randn(IMAGE))
    weights = program.weights()
    assert set(weights) == set(net.state_dict())
    assert weights["conv.weight"].data_ptr() == net.conv.weight.data_ptr()
    assert program.placeholder("conv.weight").meta["val"].shape == (4, 3, 3, 3)
    assert program.names()[program.placeholder("fc.bias")] == "fc.bias"
    assert [node.name for node in program.inputs] == ["input"]
    with pytest.raises(KeyError):
        program.placeholder("fc.nonsense")


def test_every_node_has_a_value_and_knows_its_layer():
    program = trace(small_net(), torch.randn(IMAGE))
    for node in program.graph.nodes:
        if node.op == "call_function":
            assert "val" in node.meta
    conv = next(node for node in program.graph.nodes if str(node.target) == "aten.conv2d.default")
    assert [path for path, _ in conv.meta["nn_module_stack"].values()][-1] == "conv"
    assert str(conv.meta["val"].shape[0]) == program.batch_symbol


def test_tied_weights_are_read_under_their_first_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, 4)
            self.out = nn.Linear(4, 11, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, tokens):
            return self.out(self.embed(tokens))

    program = trace(Tied(), torch.randint(0, 11, (2, 5)))
    assert program.tied == {"out.weight": "embed.weight"}
    assert program.unused == frozenset()
    assert len(program.placeholder("embed.weight").users) == 2
    assert not program.placeholder("out.weight").users


def test_one_block_applied_twice_is_one_set_of_weights():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Conv2d(3, 3, 3, padding=1)
            self.again = self.block

        def forward(self, x):
            return self.again(self.block(x).relu())

    net = Twice()
    program = trace(net, torch.randn(IMAGE))
    assert program.tied == {"again.weight": "block.weight", "again.bias": "block.bias"}
    assert set(TracedModule(program).state_dict()) == set(net.state_dict())
    x = torch.randn(IMAGE)
    assert torch.equal(TracedModule(program)(x), net(x))


def test_what_the_graph_never_reads_is_named():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.aux = nn.Linear(3, 4), nn.Linear(3, 2)

        def forward(self, x):
            if self.training:
                return self.main(x), self.aux(x)
            return self.main(x)

    program = trace(Auxiliary(), torch.randn(2, 3))
    assert program.unused == {"aux.weight", "aux.bias"}
    assert len(program.notes) == 1
    assert "Auxiliary does something in training" in program.notes[0]


def test_dropout_and_batch_norm_are_no_loss():
    class Drops(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x, 0.5, training=self.training)

    assert trace(nn.Sequential(Drops(), nn.BatchNorm1d(3)), torch.randn(2, 3)).notes == ()


def test_stochastic_depth_is_a_loss_only_where_its_rate_is_not_zero():
    class DropPath(nn.Module):
        def __init__(self, p):
            super().__init__()
            self.p = p

        def forward(self, x):
            return x * (torch.rand(x.shape[0], 1) > self.p) if self.training else x

    assert trace(nn.Sequential(DropPath(0.0)), torch.randn(2, 3)).notes == ()
    assert "DropPath" in trace(nn.Sequential(DropPath(0.1)), torch.randn(2, 3)).notes[0]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda y: (y, [y + 1, {"b": y * 2}]), tuple),
        (lambda y: {"out": y, "none": None}, dict),
        (lambda y: OrderedDict(b=y, a=y + 1), OrderedDict),
        (lambda y: Answer(y), dict),
        (lambda y: Pair(y, y + 1), tuple),
    ],
    ids=["nested", "dict", "ordered", "dataclass", "namedtuple"],
)
def test_output_structures(make, kind):
    net = Returns(make)
    module = TracedModule(trace(net, torch.randn(2, 3)))
    x = torch.randn(3, 3)
    got, wanted = module(x), net(x)
    assert type(got) is kind
    leaves, expected = torch.utils._pytree.tree_leaves(got), torch.utils._pytree.tree_leaves(wanted)
    if isinstance(wanted, Answer):
        assert set(got) == {"logits"}
        expected = [wanted.logits]
    if isinstance(got, dict) and not isinstance(wanted, Answer):
        assert list(got) == list(wanted)
    assert len(leaves) == len(expected)
    assert all(a is b or torch.equal(a, b) for a, b in zip(leaves, expected, strict=True))


def test_several_inputs_by_position_and_by_name():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x, pair, *, scale=None, flag=True):
            y = self.fc(x) + pair["a"] * pair["b"][0]
            return y * scale if flag else y

    net = Several()

    def inputs(n):
        return (torch.randn(n, 3), {"a": torch.randn(n, 4), "b": [torch.randn(4)]}), {
            "scale": torch.randn(n, 1)
        }

    args, kwargs = inputs(1)
    program = trace(net, args, kwargs=kwargs)
    module = TracedModule(program)
    for size in (1, 3):
        args, kwargs = inputs(size)
        assert torch.equal(module(*args, **kwargs), net(*args, **kwargs))
    assert len({str(n.meta["val"].shape[0]) for n in program.inputs if n.meta["val"].dim() == 2}) == 1


def test_a_dict_example_is_keywords():
    class Named(nn.Module):
        def forward(self, x, y):
            return x - y

    module = TracedModule(trace(Named(), {"y": torch.ones(2, 3), "x": torch.zeros(2, 3)}))
    assert torch.equal(module(x=torch.ones(3, 3), y=torch.zeros(3, 3)), torch.ones(3, 3))
    assert torch.equal(module(torch.ones(3, 3), torch.zeros(3, 3)), torch.ones(3, 3))


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4)), (2, 2, 9)),
        (nn.Sequential(nn.Conv3d(2, 4, 3), nn.InstanceNorm3d(4, track_running_stats=True)), (2, 2, 4, 4, 4)),
        (nn.Sequential(nn.ConvTranspose2d(2, 4, 3, groups=2), nn.GroupNorm(2, 4)), (2, 2, 4, 4)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3)), (2, 2, 4, 4)),
    ],
    ids=["1d", "3d", "transposed", "transformer", "weight_norm"],
)
def test_kinds_of_networks(net, shape):
    net = net.eval()
    module = TracedModule(trace(net, torch.randn(shape))).eval()
    assert set(module.state_dict()) == set(net.state_dict())
    x = torch.randn(3, *shape[1:])
    with torch.enable_grad():  # without, the transformer's eager fast path computes in another order
        torch.testing.assert_close(module(x), net(x), rtol=1e-6, atol=1e-6)


def test_buffers_used_as_data_and_constants():
    class Data(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("index", torch.tensor([2, 0]))
            self.register_buffer("scale", torch.tensor(3.0), persistent=False)
            self.shift = torch.arange(2.0)

        def forward(self, x):
            return x[:, self.index] * self.scale + self.shift

    net = Data()
    program = trace(net, torch.randn(2, 3))
    assert set(program.weights()) == {"index", "scale", "shift"}
    module = TracedModule(program)
    assert set(module.state_dict()) == {"index"}
    x = torch.randn(3, 3)
    assert torch.equal(module(x), net(x))


def test_data_dependent_control_flow_names_the_line():
    class Branches(nn.Module):
        def forward(self, x):
            if x.sum() > 0:
                return x + 1
            return x

    with pytest.raises(GraphError, match=r"depends on the data at test_trace\.py:\d+") as caught:
        trace(Branches(), torch.randn(2, 3))
    assert caught.value.exit_code == 4
    assert "torch.where" in str(caught.value)


def test_a_wrong_example_is_one_sentence():
    with pytest.raises(GraphError, match="Sequential cannot be traced"):
        trace(small_net(), torch.randn(2, 5, 6, 6))
    with pytest.raises(GraphError, match="no example input"):
        trace(small_net())
    with pytest.raises(GraphError, match="batch of 0"):
        trace(small_net(), torch.randn(0, 3, 6, 6))


def test_programs_and_traced_modules_are_not_traced_again(monkeypatch):
    net = small_net()
    program = trace(net, torch.randn(IMAGE))
    module = TracedModule(program)
    monkeypatch.setattr(torch.export, "export", None)
    assert trace(program) is program
    with torch.no_grad():
        module.fc.bias += 1
    again = trace(module, torch.randn(IMAGE))
    assert torch.equal(again.weights()["fc.bias"], net.fc.bias + 1)
    assert again.graph is module.program().graph
    exported = trace(program.exported)
    assert exported.batch_symbol == program.batch_symbol
    assert exported.graph is not program.graph


def test_foreign_exported_programs_become_functional():
    class InPlace(nn.Module):
        def forward(self, x):
            y = x * 2
            y[:, 0] += 1
            return y

    exported = torch.export.export(InPlace(), (torch.randn(2, 3),))
    count = len(exported.graph.nodes)
    program = trace(exported)
    assert program.batch_symbol is None
    assert len(exported.graph.nodes) == count
    assert not any(str(node.target).endswith("_.Tensor") for node in program.graph.nodes)


def halved(program):
    """The small net with channels 1 and 3 of its convolution cut away."""
    graph, keep = program.copy_graph(), [0, 2]
    weights = program.weights()
    weights = {n: t[keep] if n.startswith(("conv.", "norm.")) and t.dim() else t for n, t in weights.items()}
    weights["fc.weight"] = weights["fc.weight"].reshape(5, 4, 16)[:, keep].reshape(5, 32)
    return rebuild(program, graph, weights)


def test_rebuild_after_cutting_channels(tmp_path):
    net = small_net().eval()
    program = trace(net, torch.randn(IMAGE))
    with torch.no_grad():
        net.fc.weight.view(5, 4, 16)[:, [1, 3]] = 0
    small = halved(program)
    assert small.placeholder("conv.weight").meta["val"].shape == (2, 3, 3, 3)
    assert program.placeholder("conv.weight").meta["val"].shape == (4, 3, 3, 3)
    conv = next(node for node in small.graph.nodes if str(node.target) == "aten.conv2d.default")
    assert tuple(map(str, conv.meta["val"].shape)) == (small.batch_symbol, "2", "4", "4")
    torch.export.save(small.exported, tmp_path / "small.pt2")
    reloaded = torch.export.load(tmp_path / "small.pt2").module()
    for size in (1, 3, 64):
        x = torch.randn(size, *IMAGE[1:])
        torch.testing.assert_close(reloaded(x), net(x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(TracedModule(small).eval()(x), net(x), rtol=1e-5, atol=1e-6)


def test_rebuild_drops_and_adds_weights():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x):
            return self.fc(x)

    program = trace(Plain(), torch.randn(2, 3))
    graph = program.copy_graph()
    linear = next(node for node in graph.nodes if node.op == "call_function")
    old = linear.args[2]
    added = add_weight(graph, "fc.shift", torch.ones(4))
    linear.update_arg(2, added)
    graph.erase_node(old)
    weights = program.weights() | {"fc.shift": torch.ones(4)}
    rebuilt = rebuild(program, graph, weights, notes=("changed",))
    assert set(rebuilt.weights()) == {"fc.weight", "fc.shift"}
    assert rebuilt.notes == ("changed",)
    module = TracedModule(rebuilt)
    x = torch.randn(3, 3)
    assert torch.equal(module(x), torch.nn.functional.linear(x, weights["fc.weight"], torch.ones(4)))
    assert module.fc.shift.requires_grad


def test_rebuild_says_where_shapes_clash():
    program = trace(small_net(), torch.randn(IMAGE))
    weights = program.weights()
    weights["fc.weight"] = weights["fc.weight"][:, :10]
    with pytest.raises(GraphError, match="breaks at linear"):
        rebuild(program, program.copy_graph(), weights)


# torch.onnx itself reads a deprecated class of torch.utils._pytree
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_rebuilt_programs_become_onnx():
    small = halved(trace(small_net().eval(), torch.randn(IMAGE)))
    onnx_program = torch.onnx.export(small.exported, dynamo=True, verbose=False)
    assert onnx_program is not None
    shapes = {i.name: tuple(i.dims) for i in onnx_program.model_proto.graph.initializer}
    assert (2, 3, 3, 3) in shapes.values()
    dims = onnx_program.model_proto.graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param
    assert dims[1].dim_value == 3


@pytest.mark.parametrize(
    "function",
    [
        lambda y: nn.functional.pad(y, (0, 0, 0, 0, 1, 2)),
        lambda y: nn.functional.pad(y, (1, 1, 1, 1), mode="circular"),
        lambda y: nn.functional.local_response_norm(y, 3),
        lambda y: nn.functional.unfold(y, 2),
        lambda y: nn.functional.interpolate(y, scale_factor=2.0),
        lambda y: y.flatten(2) @ y.flatten(2).transpose(1, 2),
    ],
    ids=["pad", "circular", "lrn", "unfold", "interpolate", "matmul"],
)
def test_rebuilding_keeps_the_batch_dynamic(function):
    net = Returns(function)
    net.fc = nn.Conv2d(3, 4, 3)
    program = trace(net, torch.randn(IMAGE))
    rebuilt = rebuild(program, program.copy_graph(), program.weights())
    assert str(rebuilt.inputs[0].meta["val"].shape[0]) == program.batch_symbol
    x = torch.randn(5, *IMAGE[1:])
    assert torch.equal(rebuilt.exported.module()(x), net(x))


def test_rebuild_refuses_a_graph_that_fixes_the_batch():
    program = trace(small_net(), torch.randn(IMAGE))
    graph = program.copy_graph()
    flat = next(node for node in graph.nodes if str(node.target).startswith("aten.flatten"))
    flat.target, flat.args = torch.ops.aten.reshape.default, (flat.args[0], [2, 64])
    with pytest.raises(GraphError, match="fixes the batch at"):
        rebuild(program, graph, program.weights())
