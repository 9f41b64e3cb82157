from __future__ import annotations

import pytest

from sslcli.options.training import RegularizeOptions
from sslcli.targeting.target import Target


@pytest.mark.parametrize(
    ("name", "left", "missed"),
    [("latency", 0.514, False), ("latency", 0.516, True), ("macs", 0.5, False), ("macs", 0.501, True)],
)
def test_a_measurement_may_be_3_percent_above_as_the_help_says(name, left, missed):
    target = Target({name: 0.5}, None, 0.9)
    assert bool(target.misses({name: left}, {})) is missed
    assert "3 % above" in str(RegularizeOptions.model_fields["target"].description)
