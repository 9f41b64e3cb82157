import pytest

from sslcli.report import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (9999, "9999"), (10_000, "10 k"), (431_080, "431 k"), (2_293_000, "2.29 M"), (4.1e9, "4.1 G")],
)
def test_counts(value, text):
    assert numbers.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999 B"), (1_730_000, "1.7 MB"), (97_800_000_000, "97.8 GB")]
)
def test_sizes(value, text):
    assert numbers.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.4, "0 s"), (59.6, "1m 00s"), (125, "2m 05s"), (7620, "2h 07m")]
)
def test_durations(value, text):
    assert numbers.duration(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.01234, "0.0123 ms"), (1.5, "1.500 ms"), (123.45, "123.5 ms")])
def test_milliseconds(value, text):
    assert numbers.milliseconds(value) == text


def test_accuracy_is_per_cent_and_loss_is_not():
    assert (numbers.metric("accuracy", 0.9173), numbers.metric("loss", 0.25)) == ("91.73 %", "0.2500")
