import torch
from hypothesis import given
from hypothesis import strategies as st

from sslcli.data.partition import cut, shares, validation_count

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
