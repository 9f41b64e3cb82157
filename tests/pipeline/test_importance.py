import torch
import torch.nn.functional as F
from torch import nn

from sslcli.data import DataSource
from sslcli.pipeline.importance import taylor, training_batches


class Points:
    """Six points in the plane, two classes."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(6, 2, generator=generator)
        self.targets = torch.tensor([0, 1, 0, 1, 1, 0])

    def __len__(self):
        return 6

    def batch(self, indices, *, seed=0, epoch=0):
        return self.inputs[indices], self.targets[indices]


def source():
    return DataSource("points", Points(), None, None, None, (2,))


def test_taylor_is_the_mean_of_the_squared_first_order_change():
    torch.manual_seed(1)
    model = nn.Linear(2, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = taylor(model, source(), batch_size=3, seed=0, batches=2)
    expected = torch.zeros(2, 2)
    for inputs, targets in training_batches(source(), 2, 3, 0):
        weight = model.weight.detach().clone().requires_grad_()
        F.cross_entropy(F.linear(inputs, weight, model.bias.detach()), targets).backward()
        expected += (weight.detach() * weight.grad).square() / 2
    torch.testing.assert_close(scores["weight"], expected)
    assert model.weight.grad is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_dead_weight_has_no_importance():
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight[0] = 0
    scores = taylor(model, source(), batch_size=6, seed=0, batches=1)
    assert scores["weight"][0].tolist() == [0.0, 0.0]
    assert (scores["weight"][1] > 0).all()


def test_training_batches_stop_with_the_data():
    found = [len(targets) for _, targets in training_batches(source(), 10, 4, 0)]
    assert found == [4, 2]
