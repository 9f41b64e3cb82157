from __future__ import annotations

import pytest

from sslcli.options.training import TrainOptions
from sslcli.training.optimizer import prox_step_size
from sslcli.training.schedule import lr_factor


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1]),
        ({"schedule": "step"}, [1, 1, 0.1, 0.01]),
        ({"schedule": "step", "milestones": (1, 3, 7), "gamma": 0.5}, [1, 0.5, 0.25, 0.25]),
        ({"schedule": "cosine"}, [1, 0.8535533905932737, 0.5, 0.1464466094067262]),
        ({"schedule": "constant", "warmup": 4}, [1e-3, 0.5, 1, 1]),
    ],
)
def test_factors_at_quarters_of_eight_epochs(values, expected):
    options = TrainOptions(**values)
    assert [lr_factor(options, epoch, 8) for epoch in (0, 2, 4, 6)] == pytest.approx(expected)


def test_onecycle_rises_and_falls_to_zero():
    options = TrainOptions(schedule="onecycle")
    assert lr_factor(options, 3.0, 10) == pytest.approx(1)
    assert lr_factor(options, 1.5, 10) == pytest.approx(0.5)
    assert lr_factor(options, 10.0, 10) == pytest.approx(0)


def test_prox_step_counts_the_momentum_under_sgd_alone():
    assert prox_step_size(TrainOptions(momentum=0.9), 0.01) == pytest.approx(0.1)
    assert prox_step_size(TrainOptions(momentum=0.0), 0.01) == 0.01
    assert prox_step_size(TrainOptions(optimizer="adamw"), 0.01) == 0.01
