import copy
import io
import pickle

import pytest
import torch
from torch import nn

from sslcli.errors import UsageError
from sslcli.graph.module import TracedModule
from sslcli.graph.trace import trace


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleDict(
            {"b": nn.BatchNorm2d(6), "i": nn.InstanceNorm2d(6, affine=True, track_running_stats=True)}
        )
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, 4)
        self.out = nn.Linear(4, 4)
        self.out.weight = nn.Parameter(torch.eye(4))
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.out.weight
        self.unread = nn.Parameter(torch.ones(2))

    def forward(self, x, scale=None):
        y = self.norms["i"](self.norms["b"](self.conv(x)).relu()).mean((2, 3))
        y = self.tied(self.out(self.fc(self.drop(y))))
        return {"y": y if scale is None else y * scale, "x": (x,)}


X = (3, 3, 5, 5)


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Net()
    net(torch.randn(X))  # running statistics that are not those of a fresh norm
    return net.eval()


@pytest.fixture
def module(net):
    return TracedModule(trace(net, torch.randn(2, 3, 5, 5))).eval()


def test_names_structure_and_values_are_the_models(net, module):
    assert set(module.state_dict()) == set(net.state_dict())
    assert [n for n, _ in module.named_parameters()] == [n for n, _ in net.named_parameters()]
    for size in (1, 3, 64):
        x = torch.randn(size, *X[1:])
        got, wanted = module(x), net(x)
        assert list(got) == ["y", "x"]
        assert torch.equal(got["y"], wanted["y"])
        assert got["x"][0] is x


def test_it_owns_its_tensors(net, module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(3)
    assert not torch.equal(net.fc.weight, module.fc.weight)
    assert not {p.data_ptr() for p in module.parameters()} & {p.data_ptr() for p in net.parameters()}


def test_tied_weights_stay_tied(module):
    assert module.tied.weight is module.out.weight
    module.load_state_dict(
        {**module.state_dict(), "out.weight": torch.zeros(4, 4), "tied.weight": torch.ones(4, 4)}
    )
    assert torch.equal(module.out.weight, torch.ones(4, 4))


def test_train_mode_moves_running_statistics_as_the_model_does(net, module):
    net.drop.p = 0.0
    net.train()
    module.train()
    x = torch.randn(X)
    module._sslcli_run  # noqa: B018  (compiled once: switching the mode compiles nothing)
    net(x), module(x)
    for name in (
        "norms.b.running_mean",
        "norms.b.running_var",
        "norms.i.running_mean",
        "norms.b.num_batches_tracked",
    ):
        assert torch.equal(net.state_dict()[name], module.state_dict()[name]), name
    net.eval(), module.eval()
    assert torch.equal(net(x)["y"], module(x)["y"])


def test_dropout_follows_the_mode(module):
    x = torch.randn(X)
    assert torch.equal(module(x)["y"], module(x)["y"])
    module.train()
    torch.manual_seed(1)
    assert not torch.equal(module(x)["y"], module(x)["y"])


def test_gradients_equal_the_models(net, module):
    x = torch.randn(X)
    net(x)["y"].square().sum().backward()
    module(x)["y"].square().sum().backward()
    for name, parameter in net.named_parameters():
        twin = module.get_parameter(name).grad
        assert (parameter.grad is None and twin is None) or torch.equal(parameter.grad, twin), name


def test_a_step_changes_what_the_program_gives(module):
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    module(torch.randn(X))["y"].square().sum().backward()
    optimizer.step()
    x = torch.randn(X)
    assert torch.equal(module.program().exported.module()(x)["y"], module(x)["y"])
    assert torch.equal(TracedModule(module.program()).eval()(x)["y"], module(x)["y"])


def test_state_dicts_move_both_ways(net, module):
    with torch.no_grad():
        net.fc.weight.mul_(2)
    module.load_state_dict(net.state_dict())
    fresh = Net().eval()
    fresh.load_state_dict(module.state_dict())
    x = torch.randn(X)
    assert torch.equal(fresh(x)["y"], net(x)["y"])
    assert torch.equal(module(x)["y"], net(x)["y"])


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
def test_copies_are_whole_and_apart(module, clone):
    module.fc.weight.requires_grad_(False)
    module.train()
    twin = clone(module)
    assert twin.training
    twin.eval(), module.eval()
    x = torch.randn(X)
    assert torch.equal(twin(x)["y"], module(x)["y"])
    assert twin.tied.weight is twin.out.weight
    assert not twin.fc.weight.requires_grad
    assert twin.program().unused == module.program().unused
    with torch.no_grad():
        twin.fc.bias += 1
    assert not torch.equal(twin(x)["y"], module(x)["y"])


def test_inputs_by_name_and_wrong_inputs(module):
    x = torch.randn(X)
    assert torch.equal(module(x=x)["y"], module(x)["y"])
    with pytest.raises(UsageError, match="takes 1 inputs, but was given 2"):
        module(x, torch.ones(1))


def test_saved_programs_run_without_this_package(module, tmp_path):
    path = tmp_path / "net.pt2"
    torch.export.save(module.program().exported, path)
    reloaded = torch.export.load(path)
    for size in (1, 3, 64):
        x = torch.randn(size, *X[1:])
        assert torch.equal(reloaded.module()(x)["y"], module(x)["y"])
    again = trace(reloaded)
    assert again.batch_symbol is not None
    assert torch.equal(TracedModule(again).eval()(x)["y"], module(x)["y"])


def test_names_that_a_module_has_already():
    class Awkward(nn.Module):
        def __init__(self):
            super().__init__()
            self.program = nn.Linear(3, 3)
            self._sslcli = nn.ParameterDict({"training_rate": nn.Parameter(torch.ones(3))})

        def forward(self, x):
            return self.program(x) * self._sslcli["training_rate"]

    net = Awkward()
    module = TracedModule(trace(net, torch.randn(2, 3)))
    assert set(module.state_dict()) == set(net.state_dict())
    x = torch.randn(4, 3)
    assert torch.equal(module(x), net(x))
    assert trace(module).weights().keys() == net.state_dict().keys()


def test_constants_made_in_forward_follow_the_module_to_its_device():
    class Makes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(x) + torch.arange(3, device=x.device)

    module = TracedModule(trace(Makes(), torch.randn(2, 3))).to("meta")
    assert module(torch.randn(2, 3, device="meta")).device.type == "meta"


def test_compiled_graph_pickles_through_a_file(module):
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    twin = torch.load(stream, weights_only=False)
    x = torch.randn(X)
    assert torch.equal(twin(x)["y"], module(x)["y"])
