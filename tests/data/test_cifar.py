import io
import os
import pickle
import tarfile
import urllib.request

import numpy as np
import pytest
import torch

from sslcli.data import cifar, load_data
from sslcli.errors import DataError


def python_batches(binary, folder):
    """The binary batches again, as the Python version stores them."""
    folder.mkdir(parents=True)
    for path in binary.glob("*.bin"):
        records = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 3073)
        batch = {b"data": records[:, 1:].copy(), b"labels": records[:, 0].tolist(), b"batch_label": b"x"}
        (folder / path.stem).write_bytes(pickle.dumps(batch, protocol=2))
    return folder


def test_the_python_version_is_the_binary_version(tmp_path, write_cifar):
    binary = write_cifar(tmp_path / "a" / "cifar-10-batches-bin")
    python_batches(binary, tmp_path / "b" / "cifar-10-batches-py")
    first, second = (load_data("cifar10", root=tmp_path / name, augment=False) for name in "ab")
    for split in ("train", "validation", "test"):
        assert torch.equal(first.split(split).pixels, second.split(split).pixels)
        assert torch.equal(first.split(split).targets, second.split(split).targets)


def test_a_pickle_as_python_2_wrote_it_is_read(tmp_path):
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    state = b"(I1\n(I2\nI3072\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'"
    pixels = b"A" * (2 * 3072)
    content = b"(dS'data'\n" + array + state + pixels + b"'\ntbsS'labels'\n(lI7\naI2\nas."
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    images, labels = cifar.read_pickled(path)
    assert tuple(images.shape) == (2, 3, 32, 32)
    assert images.unique().tolist() == [ord("A")]
    assert labels.tolist() == [7, 2]


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_names_code_is_refused_and_not_run(tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Command(str(tmp_path / "ran"))}))
    with pytest.raises(DataError, match=r"it names posix\.mkdir"):
        cifar.read_pickled(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "batch",
    [
        {b"labels": [1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
        {b"data": np.zeros((1, 3072), np.float32), b"labels": [1]},
        {b"data": np.zeros((1, 3072), object), b"labels": [1]},
        [1, 2],
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, batch):
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(batch))
    with pytest.raises(DataError, match="data_batch_1"):
        cifar.read_pickled(path)


@pytest.mark.parametrize("size", [0, 3072, 3073 * 2 + 1])
def test_a_binary_batch_of_the_wrong_length_is_refused(tmp_path, size):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(DataError, match="whole number"):
        cifar.read_binary(path)


def test_the_archive_is_fetched_and_unpacked(tmp_path, write_cifar, monkeypatch):
    import hashlib

    write_cifar(tmp_path / "packed" / "cifar-10-batches-bin")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(tmp_path / "packed" / "cifar-10-batches-bin", "cifar-10-batches-bin")
    (tmp_path / "archive").write_bytes(stream.getvalue())
    monkeypatch.setattr(cifar, "MIRRORS", ((tmp_path / "archive").as_uri(),))
    monkeypatch.setattr(cifar, "CHECKSUM", "sha256:" + hashlib.sha256(stream.getvalue()).hexdigest())
    opener = urllib.request.build_opener()
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: opener.open(url, timeout=timeout))
    (tmp_path / "root").mkdir()
    assert len(load_data("cifar10", root=tmp_path / "root").split("train")) == 90
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["cifar-10-batches-bin"]


@pytest.mark.assets
def test_the_real_files_hold_every_class_equally(real_data):
    source = load_data("cifar10", root=real_data)
    counts = {
        name: torch.bincount(source.split(name).targets).tolist() for name in ("train", "validation", "test")
    }
    assert counts == {"train": [4500] * 10, "validation": [500] * 10, "test": [1000] * 10}
