import copy

import torch
from torch import nn

from sslcli.options.training import TrainOptions
from sslcli.training.layout import ChannelsLast
from sslcli.training.step import Stepper
from sslcli.training.task import classification


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)  # a bias before a norm has no gradient
        self.norm = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 5, 3, stride=2)
        self.fc = nn.Linear(5, 4)
        self.seen = []

    def forward(self, x):
        self.seen.append(x.is_contiguous(memory_format=torch.channels_last))
        x = torch.relu(self.norm(self.conv1(x)))
        return self.fc(self.conv2(x).mean((2, 3)))


def test_outputs_and_gradients_are_those_of_the_model_itself():
    torch.manual_seed(0)
    model, x = Net().double(), torch.randn(4, 3, 9, 9, dtype=torch.float64)
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    ChannelsLast(model)(x).square().sum().backward()
    assert model.seen == [False, True]
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert parameter.is_contiguous()
        assert parameter.grad.stride() == parameter.stride()
        torch.testing.assert_close(parameter.grad, gradient)
    assert int(model.norm.num_batches_tracked) == 2  # buffers are the model's own


def test_a_step_trains_the_same_weights():
    torch.manual_seed(0)
    model = Net().double()
    batch = torch.randn(4, 3, 9, 9, dtype=torch.float64), torch.arange(4)
    trained = []
    for channels_last in (False, True):
        copied = copy.deepcopy(model)
        options = TrainOptions(channels_last=channels_last)
        Stepper(copied, classification(), options, torch.device("cpu")).step(*batch, lr=0.1)
        trained.append(list(copied.parameters()))
        assert copied.seen == [channels_last]
    for plain, last, start in zip(*trained, model.parameters(), strict=True):
        torch.testing.assert_close(plain, last)
        assert not torch.equal(plain, start)
