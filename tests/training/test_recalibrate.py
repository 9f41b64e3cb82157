from __future__ import annotations

import torch
from torch import nn

from sslcli.graph.module import TracedModule
from sslcli.graph.trace import trace
from sslcli.training.recalibrate import recalibrate


def model_of_norm():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.5)).eval()


def batches():
    generator = torch.Generator().manual_seed(1)
    return [5 + 2 * torch.randn(8, 2, 4, 4, generator=generator) for _ in range(6)]


def expected(model):
    with torch.no_grad():
        found = [model[0](batch).transpose(0, 1).flatten(1) for batch in batches()]
    return torch.stack([f.mean(1) for f in found]).mean(0), torch.stack([f.var(1) for f in found]).mean(0)


def test_statistics_are_the_means_over_the_batches():
    model = model_of_norm()
    mean, variance = expected(model)
    assert recalibrate(model, batches()) == 2
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, variance)
    assert model[1].momentum == 0.3
    assert not model[1].training


def test_a_traced_module_gets_the_same_statistics():
    model = model_of_norm()
    traced = TracedModule(trace(model, (batches()[0],))).eval()
    mean, variance = expected(model)
    assert recalibrate(traced, batches()) == 2
    buffers = dict(traced.named_buffers())
    torch.testing.assert_close(buffers["1.running_mean"], mean)
    torch.testing.assert_close(buffers["1.running_var"], variance)
    assert not traced.training


def test_a_model_without_norms_is_left_alone():
    model = nn.Conv2d(2, 3, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert recalibrate(model, batches()) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
