import numpy as np
import pytest
import torch

from sslcli.data import load_data, stream
from sslcli.errors import DataError

Image = pytest.importorskip("PIL.Image")
SIZE = (3, 8, 8)


def write_image(path, colour=(10, 20, 30), size=(20, 20), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes in train (10 each) and test (2 each), told apart by their colour."""
    for split, count in (("train", 10), ("test", 2)):
        for label, colour in (("cat", (250, 0, 0)), ("dog", (0, 0, 250))):
            for number in range(count):
                write_image(tmp_path / "images" / split / label / f"{number}.png", colour)
    return tmp_path / "images"


def load(folder, **settings):
    return load_data(f"imagefolder:{folder}", **{"input_shape": SIZE, **settings})


def test_classes_are_the_folders_and_validation_is_cut(folder):
    source = load(folder)
    assert source.classes == ("cat", "dog")
    assert [len(source.split(name)) for name in ("train", "validation", "test")] == [18, 2, 4]
    assert source.split("validation").samples.targets.tolist() == [0, 1]


def test_validation_can_come_from_the_test_folder(folder):
    source = load(folder, validation_from="test")
    assert [len(source.split(name)) for name in ("train", "validation", "test")] == [20, 2, 2]
    assert source.split("validation").samples.targets.tolist() == [0, 1]


def test_colours_arrive_normalised_in_channel_order(folder):
    inputs, targets = load(folder, mean=(0, 0, 0), std=(1, 1, 1)).split("test").batch(torch.arange(4))
    assert targets.tolist() == [0, 0, 1, 1]
    assert tuple(inputs.shape) == (4, *SIZE)
    torch.testing.assert_close(inputs[0, :, 4, 4], torch.tensor([250 / 255, 0, 0]))
    torch.testing.assert_close(inputs[3, :, 4, 4], torch.tensor([0, 0, 250 / 255]))


def test_evaluation_cuts_the_middle_out(tmp_path):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 10:22] = 255  # the middle 12 of 32 columns, wider than the crop's 14 * 7/8
    (tmp_path / "test" / "a").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "test" / "a" / "x.png")
    inputs, _ = load(tmp_path, mean=(0, 0, 0), std=(1, 1, 1)).split("test").batch(torch.tensor([0]))
    # 16 rows show 8 * 8/7 rows of the resized image: the input is the middle 14 x 14 of the original
    assert float(inputs[0, :, :, 1:7].min()) == 1
    assert float(inputs[0, :, :, 0].max()) < 1


def test_training_is_augmented_by_seed_epoch_and_index_alone(folder):
    generator = np.random.default_rng(0)
    for path in folder.glob("train/*/*.png"):
        Image.fromarray(generator.integers(0, 256, (20, 20, 3), np.uint8)).save(path)
    train = load(folder).split("train")
    whole, _ = train.batch(torch.arange(18), seed=1, epoch=2)
    alone, _ = train.batch(torch.tensor([5]), seed=1, epoch=2)
    later, _ = train.batch(torch.arange(18), seed=1, epoch=3)
    assert torch.equal(whole[5:6], alone)
    assert not torch.equal(whole, later)
    plain = load(folder, augment=False).split("train")
    assert torch.equal(plain.batch(torch.arange(18), epoch=2)[0], plain.batch(torch.arange(18), epoch=3)[0])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one CPU
def test_worker_processes_give_the_same_batches(folder):
    batches = list(torch.arange(18).split(5))
    alone = list(stream(load(folder).split("train"), batches, seed=3, epoch=1))
    before = torch.get_rng_state()
    helped = list(stream(load(folder, workers=2).split("train"), batches, seed=3, epoch=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(alone) == len(helped) == 4
    for first, second in zip(alone, helped, strict=True):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(folder, workers):
    (folder / "test" / "dog" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(DataError, match=r"test/dog/1\.png") as caught:
        list(stream(load(folder, workers=workers).split("test"), [torch.arange(4)]))
    assert caught.value.hint == "repair or remove the file"


def test_a_truncated_image_is_named(folder):
    path = folder / "test" / "cat" / "0.png"
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"test/cat/0\.png"):
        load(folder).split("test").batch(torch.tensor([0]))


@pytest.mark.parametrize(
    ("mode", "colour"), [("L", 51), ("P", 51), ("RGBA", (51,) * 4), ("I;16", 51 * 257), ("1", 1)]
)
def test_other_kinds_of_image_are_converted(tmp_path, mode, colour):
    path = tmp_path / "test" / "a" / "x.png"
    path.parent.mkdir(parents=True)
    image = Image.new(mode, (20, 20), colour)
    if mode == "P":
        image.putpalette([value for value in range(256) for _ in range(3)])
    image.save(path)
    inputs, _ = load(tmp_path, mean=(0, 0, 0), std=(1, 1, 1)).split("test").batch(torch.tensor([0]))
    expected = torch.full((1, *SIZE), 1.0 if mode == "1" else 0.2)
    torch.testing.assert_close(inputs, expected)


def test_32_bit_images_are_refused(tmp_path):
    path = tmp_path / "test" / "a" / "x.tif"
    path.parent.mkdir(parents=True)
    Image.new("F", (20, 20), 0.5).save(path)
    with pytest.raises(DataError, match="32-bit"):
        load(tmp_path).split("test").batch(torch.tensor([0]))


def test_a_grey_model_gets_one_channel(folder):
    source = load(folder, input_shape=(1, 8, 8))
    assert tuple(source.split("test").batch(torch.tensor([0]))[0].shape) == (1, 1, 8, 8)
    assert source.normalization.mean == (0.5,)


def test_a_link_that_leads_back_is_followed_once(folder):
    (folder / "test" / "cat" / "again").symlink_to(folder / "test" / "cat")
    assert len(load(folder).split("test")) == 4


def test_an_empty_class_is_named(folder):
    (folder / "train" / "emu").mkdir()
    with pytest.raises(DataError, match="train/emu holds no images"):
        load(folder)


def test_a_class_that_training_lacks_is_named(folder):
    write_image(folder / "val" / "emu" / "0.png")
    with pytest.raises(DataError, match="class 'emu'") as caught:
        load(folder)
    assert "cat, dog" in (caught.value.hint or "")


def test_a_folder_without_splits_says_the_layout(tmp_path):
    write_image(tmp_path / "cat" / "0.png")
    with pytest.raises(DataError, match="no folder train") as caught:
        load(tmp_path)
    assert "DIR/train/CLASS" in (caught.value.hint or "")


def test_an_input_that_is_no_image_is_refused(folder):
    with pytest.raises(DataError, match="inputs of shape"):
        load(folder, input_shape=(16,))


def test_a_test_folder_alone_can_be_evaluated(tmp_path):
    write_image(tmp_path / "test" / "a" / "0.png")
    source = load(tmp_path)
    assert source.train is None
    assert len(source.split("test")) == 1
