import multiprocessing
import os
import signal
import textwrap
import time

import pytest
import torch

from sslcli.data import load_data, stream
from sslcli.errors import DataError
from sslcli.files import write_errors

NOISY = """
    import random
    import numpy as np
    import torch

    class Noisy:
        classes = ["a", "b", "c"]

        def __init__(self, count):
            self.count = count
            self.targets = [number % 3 for number in range(count)]

        def __len__(self):
            return self.count

        def __getitem__(self, index):
            if index >= self.count:
                raise IndexError(index)
            noise = torch.randn(2, 4, 4) + np.random.rand() + random.random()
            return noise + index, self.targets[index]
"""


@pytest.fixture
def factory(tmp_path):
    def write(body):
        path = tmp_path / "mydata.py"
        path.write_text(textwrap.dedent(NOISY) + textwrap.dedent(body))
        return f"{path}:make"

    return write


def test_three_data_sets_are_the_splits(factory):
    source = load_data(factory("def make(): return Noisy(20), Noisy(5), Noisy(7)"))
    assert [len(source.split(name)) for name in ("train", "validation", "test")] == [20, 5, 7]
    assert source.classes == ("a", "b", "c")
    assert source.input_shape == (2, 4, 4)
    assert source.normalization is None


def test_a_mapping_may_name_them_and_a_test_set_may_be_missing(factory):
    source = load_data(factory("def make(): return {'train': Noisy(6), 'validation': Noisy(3)}"))
    assert source.test is None
    assert len(source.split("validation")) == 3


def test_a_missing_validation_set_is_cut_from_training(factory):
    source = load_data(factory("def make(): return Noisy(60), None, Noisy(3)"))
    assert [len(source.split(name)) for name in ("train", "validation")] == [54, 6]
    _, targets = source.split("validation").batch(torch.arange(6))
    assert torch.bincount(targets).tolist() == [2, 2, 2]


def test_validation_can_come_from_the_test_set(factory):
    reference = factory("def make(): return Noisy(60), None, Noisy(9)")
    source = load_data(reference, validation_from="test")
    assert source.describe()["samples"] == {"train": 60, "validation": 4, "test": 5}


def test_validation_of_the_data_is_not_replaced(factory):
    reference = factory("def make(): return Noisy(20), Noisy(5), Noisy(7)")
    with pytest.raises(DataError, match="has a validation split of its own"):
        load_data(reference, validation_from="test")


def test_the_users_own_random_transforms_depend_on_seed_epoch_and_index_alone(factory):
    train = load_data(factory("def make(): return Noisy(20), Noisy(5)")).split("train")
    whole, _ = train.batch(torch.arange(20), seed=1, epoch=1)
    torch.rand(3)
    alone, _ = train.batch(torch.tensor([4]), seed=1, epoch=1)
    assert torch.equal(whole[4:5], alone)
    assert not torch.equal(train.batch(torch.tensor([4]), seed=1, epoch=2)[0], alone)
    assert not torch.equal(whole[4] - 4, whole[5] - 5)


def test_the_callers_generators_are_left_alone(factory):
    import random

    import numpy as np

    train = load_data(factory("def make(): return Noisy(20), Noisy(5)")).split("train")
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    train.batch(torch.arange(20))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one CPU
def test_worker_processes_give_the_same_batches(factory):
    reference = factory("def make(): return Noisy(20), Noisy(5)")
    batches = list(torch.arange(20).split(8))
    alone, helped = (
        list(stream(load_data(reference, workers=workers).split("train"), batches, seed=2, epoch=4))
        for workers in (0, 2)
    )
    assert all(torch.equal(first[0], second[0]) for first, second in zip(alone, helped, strict=True))


def test_a_worker_that_dies_while_a_file_is_written_is_no_fault_of_the_file(factory, tmp_path):
    """Torch would tell of it out of a signal handler; whoever runs by then must not take it for its own."""
    reference = factory("def make(): return Noisy(20), Noisy(5)")
    batches = stream(load_data(reference, workers=1).split("train"), torch.arange(20).split(2))
    next(batches)
    with write_errors(tmp_path / "file", RuntimeError):
        worker = multiprocessing.active_children()[0]
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        time.sleep(0.1)  # the handler runs
    with pytest.raises(DataError, match="a process that read data died"):
        list(batches)


def test_mean_and_std_are_applied_where_given(factory):
    reference = factory("def make(): return [(torch.full((2, 3, 3), 5.0), 0)], None")
    inputs, _ = load_data(reference, mean=(1, 3), std=(2, 4)).split("train").batch(torch.tensor([0]))
    assert inputs[0, :, 0, 0].tolist() == [2.0, 0.5]


def test_mean_of_the_wrong_length_is_refused(factory):
    with pytest.raises(DataError, match=r"1 values but the inputs of .* have 2 channels"):
        load_data(factory("def make(): return Noisy(3), None"), mean=(1,), std=(2,))


def test_bytes_are_scaled_and_token_numbers_are_kept(factory):
    pixels = factory("def make(): return [(torch.full((1, 2, 2), 51, dtype=torch.uint8), 0)], None")
    inputs, _ = load_data(pixels).split("train").batch(torch.tensor([0]))
    torch.testing.assert_close(inputs, torch.full((1, 1, 2, 2), 0.2))
    tokens = factory("def make(): return [(torch.tensor([7, 8]), 0)], None")
    inputs, _ = load_data(tokens).split("train").batch(torch.tensor([0]))
    assert inputs.dtype == torch.int64


def test_a_seed_is_handed_over_where_it_is_taken(factory):
    reference = factory("def make(seed): return [(torch.full((1,), float(seed)), 0)], None")
    assert load_data(reference, seed=7).split("train").batch(torch.tensor([0]))[0].item() == 7


def test_a_data_source_is_taken_as_it_is(factory):
    body = """
        import dataclasses
        from sslcli.data import DataSource
        def make(): return DataSource("mine", None, None, None, None, (1, 2))
    """
    assert load_data(factory(body)).name == "mine"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def make(): return 3", "returned an int"),
        ("def make(): return None, None", "returned no data set"),
        ("def make(): return [], None", "is empty"),
        ("def make(): return 5, None", "train data set of .* is an int"),
        ("def make(): raise KeyError('lost')", "failed .KeyError: 'lost'"),
        ("make = 3", "not a factory"),
        ("other = 3", "no attribute 'make'"),
        ("import no_such_module_anywhere", "cannot be imported"),
        ("def make(): return [(torch.tensor([float('nan')]), 0)], None", "sample 0 .* NaN"),
        ("def make(): return [torch.zeros(3)], None", "sample 0 .* is a Tensor"),
        ("def make(): return [(torch.zeros(3), -1)], None", "label -1"),
    ],
)
def test_what_is_wrong_with_a_factory_is_one_sentence(factory, body, says):
    with pytest.raises(DataError, match=says) as caught:
        load_data(factory(body))
    assert caught.value.hint


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        load_data(f"{tmp_path}/nothing.py:make")


def test_labels_beyond_the_classes_are_refused(factory):
    body = """
        def make():
            data = Noisy(4)
            data.targets[2] = 3
            return data, Noisy(2)
    """
    with pytest.raises(DataError, match=r"sample 2 .* label 3"):
        load_data(factory(body)).split("train").batch(torch.arange(4))


def test_samples_of_different_shapes_are_refused(factory):
    reference = factory("def make(): return [(torch.zeros(n + 1), 0) for n in range(3)], None")
    with pytest.raises(DataError, match="do not stack"):
        load_data(reference).split("train").batch(torch.arange(3))


def test_a_failing_sample_is_named(factory):
    body = """
        class Broken(Noisy):
            def __getitem__(self, index):
                if index == 2:
                    raise OSError("disk gone")
                return super().__getitem__(index)
        def make(): return Broken(4), Noisy(2)
    """
    with pytest.raises(DataError, match=r"sample 2 of Broken failed .OSError: disk gone"):
        load_data(factory(body)).split("train").batch(torch.arange(4))
