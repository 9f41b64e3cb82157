import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sslcli.data import fetch, folders


@pytest.fixture(autouse=True)
def closed_world(monkeypatch, tmp_path):
    """No network, no data sets of this machine: only what a test lays out itself."""

    def refuse(url, timeout):
        raise OSError("no network in tests")

    monkeypatch.setattr(fetch.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(folders, "SYSTEM", tmp_path / "no-system-data")
    monkeypatch.delenv("SSLCLI_DATA_ROOT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def idx_bytes(array):
    array = np.ascontiguousarray(array, dtype=np.uint8)
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return head + array.tobytes()


@pytest.fixture
def write_mnist():
    """Writes a small set in MNIST's four files: 40 train and 20 test images of 28 x 28."""

    def write(folder, compress=True, labels=None, dots=False):
        folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(0)
        for prefix, count in (("train", 40), ("t10k", 20)):
            pixels = torch.randint(256, (count, 28, 28), generator=generator).numpy()
            classes = np.arange(count) % 10 if labels is None else np.full(count, labels)
            for kind, array in (("images-idx3", pixels), ("labels-idx1", classes)):
                name = f"{prefix}-{kind}-ubyte"
                content = idx_bytes(array)
                if dots:
                    name = name.replace("-idx", ".idx")
                path = folder / (f"{name}.gz" if compress else name)
                path.write_bytes(gzip.compress(content) if compress else content)
        return folder

    return write


@pytest.fixture
def write_cifar():
    """Writes a small set in CIFAR-10's six binary files, 20 images each."""

    def write(folder, size=20):
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(0)
        for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
            labels = (np.arange(size) % 10)[:, None]
            pixels = generator.integers(0, 256, (size, 3072))
            (folder / f"{name}.bin").write_bytes(np.hstack([labels, pixels]).astype(np.uint8).tobytes())
        return folder

    return write


@pytest.fixture(scope="session")
def real_data(tmp_path_factory):
    """The folder with the real MNIST and CIFAR-10 files."""
    assets = os.environ.get("SSLCLI_TEST_ASSETS")
    if not assets:
        pytest.skip("SSLCLI_TEST_ASSETS names no folder of real data")
    target = tmp_path_factory.mktemp("real")
    subprocess.run(
        [sys.executable, str(Path(assets) / "unpack.py"), str(target)], check=True, capture_output=True
    )
    return target
