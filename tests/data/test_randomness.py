import torch
from hypothesis import given
from hypothesis import strategies as st

from sslcli.data.randomness import (
    epoch_order,
    mix,
    mix_tensor,
    sample_bits,
    sample_integers,
    sample_uniform,
)

GOLDEN = 0x9E3779B97F4A7C15
words = st.integers(0, 2**64 - 1)


def signed(word):
    return word - 2**64 if word >= 2**63 else word


def test_mix_is_the_finaliser_of_splitmix64():
    # the published generator's first outputs from state 1234567
    states = [(1234567 + step * GOLDEN) % 2**64 for step in (1, 2, 3)]
    assert [mix(state) for state in states] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@given(st.lists(words, min_size=1, max_size=20))
def test_the_tensor_form_is_the_scalar_form(values):
    mixed = mix_tensor(torch.tensor([signed(value) for value in values]))
    assert mixed.tolist() == [signed(mix(value)) for value in values]


def test_bits_of_a_sample_do_not_depend_on_its_batch():
    indices = torch.arange(1000)
    alone = torch.cat([sample_bits(part, 3, 7) for part in indices.split(7)])
    assert torch.equal(sample_bits(indices, 3, 7), alone)


def test_seed_epoch_stream_and_index_all_matter():
    indices = torch.arange(500)
    draws = [sample_bits(indices, *key) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0))]
    assert torch.cat(draws).unique().numel() == 5 * 500


def test_integers_are_uniform():
    counts = torch.bincount(sample_integers(torch.arange(90_000), 9, 0, 0), minlength=9)
    assert counts.numel() == 9
    # 10,000 expected, standard deviation 94
    assert int((counts - 10_000).abs().max()) < 500


def test_uniform_floats_fill_the_unit_interval():
    draws = torch.tensor([sample_uniform(index, 5, 2) for index in range(4000)], dtype=torch.float64)
    assert 0 <= float(draws.min()) < 0.01
    assert 0.99 < float(draws.max()) < 1
    assert abs(float(draws.mean()) - 0.5) < 0.02


@given(st.integers(0, 300), st.integers(0, 2**40), st.integers(0, 1000))
def test_an_epochs_order_is_a_permutation(count, seed, epoch):
    assert sorted(epoch_order(count, seed, epoch).tolist()) == list(range(count))


def test_orders_differ_between_epochs_and_seeds_and_repeat():
    orders = [epoch_order(100, *key).tolist() for key in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert epoch_order(100, 0, 0).tolist() == orders[0]


def test_the_global_generator_is_not_drawn_from():
    before = torch.get_rng_state()
    epoch_order(10, 0, 0)
    assert torch.equal(torch.get_rng_state(), before)
