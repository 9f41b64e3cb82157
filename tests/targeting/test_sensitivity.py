import copy

import pytest
import torch

from sslcli.data.source import DataSource
from sslcli.errors import DataError
from sslcli.targeting.sensitivity import sensitivity


def test_curves_fall_where_filters_matter_and_the_model_is_left_as_it_was(trained, data, example):
    before = copy.deepcopy(trained.state_dict())
    found = sensitivity(trained, example, data, fractions=(0.0, 0.25, 1.0))
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert [curve.label for curve in found.curves] == ["conv1", "conv2+branch"] or len(found.curves) >= 2
    assert found.split == "validation"
    assert found.samples == 96
    assert found.whole > 0.9
    for curve in found.curves:
        assert curve.metric[0] == found.whole
        assert curve.removed == (0.0, 0.25, 1.0)
    worst = min(curve.metric[-1] for curve in found.curves)
    assert worst == pytest.approx(1 / 3)  # without a filter of a layer in the trunk all answers are the same


def test_few_samples_are_spread_over_the_split(trained, data, example):
    seen = []

    class Seen:
        def __len__(self):
            return len(data.validation)

        def batch(self, indices, *, seed=0, epoch=0):
            seen.extend(indices.tolist())
            return data.validation.batch(indices)

    watched = DataSource("seen", data.train, Seen(), None, None, (1, 8, 8), ("a", "b", "c"))
    found = sensitivity(trained, example, watched, fractions=(), samples=4)
    assert seen == [0, 24, 48, 72]
    assert found.samples == 4


def test_data_to_judge_by_are_needed(trained, data, example):
    bare = DataSource("bare", data.train, None, None, None, (1, 8, 8), ("a", "b", "c"))
    with pytest.raises(DataError, match="neither validation nor test"):
        sensitivity(trained, example, bare)
