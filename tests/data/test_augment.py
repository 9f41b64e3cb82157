import torch

from sslcli.data.augment import COLUMNS, MIRROR, ROWS, CropMirror
from sslcli.data.randomness import sample_integers


def by_hand(image, padding, top, left, mirrored):
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    part = padded[:, top : top + height, left : left + width]
    return part.flip(2) if mirrored else part


def images(count, height=9, width=7):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def test_every_image_is_cropped_and_mirrored_as_drawn():
    pixels, indices = images(64), torch.arange(100, 164)
    done = CropMirror(padding=2).apply(pixels, indices, seed=3, epoch=5)
    tops = sample_integers(indices, 5, 3, 5, ROWS).tolist()
    lefts = sample_integers(indices, 5, 3, 5, COLUMNS).tolist()
    mirrors = sample_integers(indices, 2, 3, 5, MIRROR).tolist()
    assert {0, 4} <= set(tops)
    assert {0, 4} <= set(lefts)
    assert set(mirrors) == {0, 1}
    for number in range(64):
        expected = by_hand(pixels[number], 2, tops[number], lefts[number], mirrors[number])
        assert torch.equal(done[number], expected)


def test_an_image_is_augmented_the_same_in_any_batch():
    pixels, indices = images(10), torch.arange(10)
    whole = CropMirror().apply(pixels, indices, seed=0, epoch=0)
    order = torch.tensor([7, 3, 9])
    assert torch.equal(CropMirror().apply(pixels[order], indices[order], seed=0, epoch=0), whole[order])


def test_epochs_differ():
    pixels, indices = images(10), torch.arange(10)
    first, second = (CropMirror().apply(pixels, indices, seed=0, epoch=epoch) for epoch in (0, 1))
    assert not torch.equal(first, second)


def test_no_padding_and_no_mirror_change_nothing():
    pixels = images(4)
    assert torch.equal(CropMirror(0, mirror=False).apply(pixels, torch.arange(4), seed=0, epoch=0), pixels)
