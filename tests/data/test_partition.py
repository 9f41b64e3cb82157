import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslcli.data.partition import cut, divide, shares, validation_count
from sslcli.errors import DataError

labels = st.lists(st.integers(0, 5), min_size=1, max_size=80)


@given(labels, st.data())
def test_the_two_parts_are_the_whole(values, data):
    targets = torch.tensor(values)
    count = data.draw(st.integers(0, len(values)))
    rest, part = cut(targets, count)
    assert len(part) == count
    assert sorted([*rest.tolist(), *part.tolist()]) == list(range(len(values)))


@given(labels, st.data())
def test_every_class_gives_its_share_to_within_one(values, data):
    targets = torch.tensor(values)
    count = data.draw(st.integers(0, len(values)))
    taken = torch.bincount(targets[cut(targets, count)[1]], minlength=6)
    exact = torch.bincount(targets, minlength=6) * count / len(values)
    assert float((taken - exact).abs().max()) < 1


def test_the_cut_is_not_the_first_samples():
    _, part = cut(torch.zeros(1000, dtype=torch.long), 100)
    assert 300 < float(part.float().mean()) < 700


def test_shares_go_to_the_largest_remainders():
    assert shares(torch.tensor([5, 3, 2]), 5).tolist() == [3, 1, 1]
    assert shares(torch.tensor([6, 3, 1]), 5).tolist() == [3, 2, 0]
    assert shares(torch.tensor([7, 2, 1]), 4).tolist() == [3, 1, 0]
    assert shares(torch.tensor([10, 10]), 10).tolist() == [5, 5]
    assert shares(torch.tensor([0, 0]), 0).tolist() == [0, 0]


def test_validation_is_a_tenth_and_at_most_5000():
    assert [validation_count(samples) for samples in (9, 4000, 50_000, 60_000)] == [0, 400, 5000, 5000]


def test_validation_is_a_tenth_of_train_or_half_of_test():
    train, test = torch.arange(40) % 4, torch.arange(20) % 4
    usual = divide(train, test, None, "x")
    assert {name: (whole, len(part)) for name, (whole, part) in usual.items()} == {
        "train": ("train", 36),
        "validation": ("train", 4),
        "test": ("test", 20),
    }
    other = divide(train, test, "test", "x")
    assert {name: (whole, len(part)) for name, (whole, part) in other.items()} == {
        "train": ("train", 40),
        "validation": ("test", 10),
        "test": ("test", 10),
    }
    assert sorted([*other["validation"][1].tolist(), *other["test"][1].tolist()]) == list(range(20))


@pytest.mark.parametrize("test", [None, torch.zeros(1, dtype=torch.long)])
def test_validation_cannot_come_from_a_test_set_that_is_not_there(test):
    with pytest.raises(DataError, match="the data set x has no test split that validation could come from"):
        divide(torch.zeros(9, dtype=torch.long), test, "test", "x")
