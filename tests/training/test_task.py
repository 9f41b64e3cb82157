from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from sslcli.errors import InputError, TargetError, UsageError
from sslcli.options.training import TrainOptions
from sslcli.pipeline.results import EvaluateResult
from sslcli.training.evaluate import evaluate
from sslcli.training.loop import fit
from sslcli.training.task import TAKEN_NAMES, Task, correct

NAN = float("nan")


def task(loss=F.cross_entropy, metric=correct, **values):
    return Task("mine", loss, metric, **values)


def trained(net, data, chosen, **values):
    return fit(net, chosen, data, TrainOptions(epochs=1), batch_size=16, **values)


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        (lambda o, t: correct(o, t)[:3], r"a tensor of shape \(3,\) on 20 samples"),
        (lambda o, t: torch.stack([correct(o, t)] * 2, 1), r"a tensor of shape \(20, 2\) on 20 samples"),
        (lambda o, t: correct(o, t).mean(), r"a tensor of shape \(\) on 20 samples"),
        (lambda o, t: None, "None on 20 samples"),
    ],
)
def test_a_metric_has_one_value_a_sample(metric, kind, net, data):
    with pytest.raises(InputError, match=rf"the metric of the task mine is {kind}, .*\(20,\)") as raised:
        evaluate(net, task(metric=metric), data.test, batch_size=20)
    assert raised.value.exit_code == 3


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_metric_that_is_not_finite_is_named(value, net, data):
    broken = task(metric=lambda o, t: correct(o, t) * value + value, metric_name="both")
    for measured in (lambda: evaluate(net, broken, data.test), lambda: trained(net, data, broken)):
        with pytest.raises(InputError, match=r"the metric both of the task mine is (nan|inf) over 48"):
            measured()


def test_a_loss_that_is_not_finite_ends_an_evaluation(net, data):
    broken = task(lambda o, t: F.cross_entropy(o, t) * NAN)
    with pytest.raises(TargetError, match="the loss is nan on 48 samples: training diverged"):
        evaluate(net, broken, data.test)


def test_a_validation_loss_that_is_not_finite_is_divergence(net, data):
    broken = task(lambda o, t: F.cross_entropy(o, t) * (1.0 if o.requires_grad else NAN))
    with pytest.raises(TargetError, match="training diverged: the loss is nan at step 6"):
        trained(net, data, broken)


@pytest.mark.parametrize(
    ("loss", "what", "hint"),
    [
        (lambda o, t: F.cross_entropy(o, t).detach(), "has no gradient", "without detach()"),
        (lambda o, t: F.cross_entropy(o, t).item(), "is a float, not a scalar tensor", "the tensor itself"),
        (lambda o, t: F.cross_entropy(o, t, reduction="none"), r"of shape \(16,\), not", "the mean over"),
    ],
)
def test_a_loss_that_cannot_be_learned_by_is_told(loss, what, hint, net, data):
    with pytest.raises(InputError, match=f"the loss of the task mine.*{what}") as raised:
        trained(net, data, task(loss))
    assert hint in str(raised.value.hint)


def test_a_teacher_needs_a_task_that_speaks_of_teachers(make_net, data):
    with pytest.raises(UsageError, match="the task mine says nothing of teachers"):
        trained(make_net(), data, task(), teacher=make_net(seed=9))


def test_a_distance_from_the_teacher_is_a_scalar(make_net, data):
    chosen = task(distill=lambda o, taught, temperature: (o - taught).square().mean(1))
    with pytest.raises(InputError, match=r"the distill of the task mine is a tensor of shape \(16,\)"):
        trained(make_net(), data, chosen, teacher=make_net(seed=9))


@pytest.mark.parametrize("name", TAKEN_NAMES)
def test_a_metric_is_not_called_as_what_stands_beside_it(name):
    with pytest.raises(InputError, match=f"is called {name}, which is taken") as raised:
        task(metric_name=name)
    assert "loss" in str(raised.value.hint)


def test_all_keys_beside_a_metric_are_taken():
    beside = {field.name for field in dataclasses.fields(EvaluateResult)}
    assert set(TAKEN_NAMES) == {"schema", "loss", *beside}
