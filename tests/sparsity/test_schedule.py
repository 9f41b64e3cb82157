from __future__ import annotations

from sslcli.sparsity.schedule import ramp, staged


def test_ramp_rises_linearly_and_stays():
    assert [ramp(epoch, 4.0) for epoch in (0, 1, 2, 4, 9)] == [0.0, 0.25, 0.5, 1.0, 1.0]
    assert ramp(0.0, 0.0) == 1.0


def test_stages_begin_at_their_milestones():
    factors = [staged(epoch, (2.0, 3.0), (2.0, 1.5, 1.0)) for epoch in (0, 1.99, 2.0, 2.9, 3.0, 7)]
    assert factors == [2.0, 2.0, 1.5, 1.5, 1.0, 1.0]
