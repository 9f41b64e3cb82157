from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sslcli.data.source import DataSource
from sslcli.errors import DataError
from sslcli.training.evaluate import evaluate, measure


def test_means_do_not_depend_on_the_batch_size(net, data):
    inputs, targets = data.test.batch(torch.arange(48))
    net.eval()
    with torch.no_grad():
        outputs = net(inputs)
    expected = {
        "accuracy": float((outputs.argmax(1) == targets).float().mean()),
        "loss": float(F.cross_entropy(outputs, targets)),
    }
    for batch_size in (1, 7, 48, 100):
        assert evaluate(net, None, data.test, batch_size=batch_size) == pytest.approx(expected, rel=1e-5)


def test_modes_of_single_modules_are_kept(net, data):
    net.train()
    net.bn.eval()
    before = net.bn.running_mean.clone()
    evaluate(net, None, data.test)
    assert net.training
    assert net.conv1.training
    assert not net.bn.training
    assert torch.equal(net.bn.running_mean, before)


def test_a_constant_output_is_noticed(data):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 3)

    from sslcli.training.task import classification

    assert measure(Constant(), classification(), data.test, batch_size=5).constant


def test_a_varying_output_is_not_constant(net, data):
    from sslcli.training.task import classification

    assert not measure(net, classification(), data.test, batch_size=5).constant


def test_an_empty_split_is_an_error(net, data):
    class Nothing:
        def __len__(self):
            return 0

    empty = DataSource("empty", None, None, Nothing(), None, (1, 8, 8))
    with pytest.raises(DataError, match="no samples"):
        evaluate(net, None, empty.test)
