"""Image folders and other data; shapes that no machine can hold."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zlib
from collections.abc import Callable

import numpy as np
from case import Case, Place, sparse
from PIL import Image

_EVALUATE = "evaluate lenet.pt2 --data imagefolder:images --split test -q"
_NORM = " --mean 0.5 --std 0.5"


def _png(colour: int = 0, mode: str = "L", size: tuple[int, int] = (28, 28)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def _images(*more: Callable[[Place], object]) -> Callable[[Place], object]:
    """An image folder of two classes with two sound images each, and what is added to it."""

    def make(place: Place) -> None:
        place.copy("lenet.pt2")
        for number in range(4):
            place.path(f"images/test/{number % 2}/{number}.png").write_bytes(_png(50 * number))
        for each in more:
            each(place)

    return make


def _image(content: bytes, name: str = "images/test/0/x.png") -> Callable[[Place], object]:
    return lambda place: place.path(name).write_bytes(content)


def _eps(place: Place) -> None:
    """Encapsulated PostScript, which Pillow hands to Ghostscript, an interpreter."""
    head = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\n"
    text = f"{head}({place.canary}) (w) file\nshowpage\n"
    place.path("images/test/0/x.png").write_bytes(text.encode())


def _huge_png() -> bytes:
    """A header that says 50,000 x 50,000 pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 10_000_000)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _text_bomb() -> bytes:
    """A PNG with a compressed comment of 500 MB."""
    comment = b"c\0\0" + zlib.compress(b"\0" * 500_000_000, 1)
    chunk = (
        struct.pack(">I", len(comment)) + b"zTXt" + comment + struct.pack(">I", zlib.crc32(b"zTXt" + comment))
    )
    sound = _png()
    return sound[:33] + chunk + sound[33:]


def _sixteen_bit() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((28, 28), 40_000, np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def _floats() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((28, 28), np.nan, np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


IMAGES = [
    Case("an image cut short", _images(_image(_png()[:45])), _EVALUATE + _NORM, "x.png"),
    Case("text named `.png`", _images(_image(b"hello")), _EVALUATE + _NORM, "x.png"),
    Case("an empty image file", _images(_image(b"")), _EVALUATE + _NORM, "x.png"),
    Case("PostScript named `.png`", _images(_eps), _EVALUATE + _NORM, "x.png"),
    Case(
        "an image that says 50,000 x 50,000 pixels", _images(_image(_huge_png())), _EVALUATE + _NORM, "x.png"
    ),
    Case(
        "an image with a compressed comment of 500 MB",
        _images(_image(_text_bomb())),
        _EVALUATE + _NORM,
        "x.png",
    ),
    Case("an image of 32-bit values", _images(_image(_floats())), _EVALUATE + _NORM, "32-bit"),
    Case("a 16-bit image: it is scaled", _images(_image(_sixteen_bit())), _EVALUATE + _NORM, code=0),
    Case(
        "colour images where the model takes one channel: they become grey",
        _images(_image(_png(0, "RGBA"))),
        _EVALUATE + _NORM,
        code=0,
    ),
    Case(
        "a pipe named `.png`",
        _images(lambda p: os.mkfifo(p.path("images/test/0/x.png"))),
        _EVALUATE + _NORM,
        "x.png",
    ),
    Case(
        "a terabyte of zeros named `.png`",
        _images(lambda p: sparse(p.path("images/test/0/x.png"))),
        _EVALUATE + _NORM,
        "x.png",
    ),
    Case(
        "a link to `/dev/zero` named `.png`",
        _images(lambda p: p.path("images/test/0/x.png").symlink_to("/dev/zero")),
        _EVALUATE + _NORM,
        "x.png",
    ),
    Case(
        "a folder that links to its parent: it is walked once",
        _images(lambda p: p.path("images/test/0/loop").symlink_to("..")),
        _EVALUATE + _NORM,
        code=0,
    ),
    Case(
        "a class folder without images",
        _images(lambda p: p.path("images/test/empty/x").parent.mkdir(exist_ok=True)),
        _EVALUATE + _NORM,
        "holds no images",
    ),
    Case(
        "a class that training does not know",
        _images(lambda p: p.path("images/train/0/a.png").write_bytes(_png())),
        _EVALUATE + _NORM,
        "has a class '1'",
    ),
    Case(
        "no class folders", lambda p: (p.copy("lenet.pt2"), p.path("images/test/x")), _EVALUATE, "images/test"
    ),
    Case(
        "11 classes where the model tells 10 apart",
        _images(*[_image(_png(), f"images/test/k{i}/x.png") for i in range(10)]),
        _EVALUATE + _NORM,
        "class",
    ),
]


def _idx(images: bytes, labels: bytes) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        for name in ("train", "t10k"):
            place.path(f"root/mnist/{name}-images-idx3-ubyte").write_bytes(images)
            place.path(f"root/mnist/{name}-labels-idx1-ubyte").write_bytes(labels)
        place.copy("lenet.pt2")

    return make


def _header(*sizes: int) -> bytes:
    return bytes([0, 0, 8, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)


_TWO = _header(2, 28, 28) + bytes(2 * 784)
_MNIST = "evaluate lenet.pt2 --data mnist --data-root root"


def _gzip_bomb(place: Place) -> None:
    _idx(_TWO, _header(2) + bytes(2))(place)
    path = place.path("root/mnist/train-images-idx3-ubyte")
    path.unlink()
    block = gzip.compress(bytes(100_000_000), 6)
    place.path("root/mnist/train-images-idx3-ubyte.gz").write_bytes(block * 40)  # 4 GB


_SOURCE = """\
import torch
class Samples:
    def __len__(self):
        return 8
    def __getitem__(self, i):
        {}
def make():
    return None, Samples(), Samples()
"""


def _factory(body: str) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        place.copy("lenet.pt2")
        place.path("d.py").write_text(_SOURCE.format(body))

    return make


_FACTORY = "evaluate lenet.pt2 --data d.py:make"
_ONE = "torch.zeros(1, 28, 28)"

DATA = [
    Case(
        "a label of 200 in MNIST's file",
        _idx(_TWO, _header(2) + bytes([3, 200])),
        _MNIST,
        "has the label 200",
    ),
    Case(
        "an IDX file that claims 16 TB",
        _idx(_header(2**31, 2**13, 28), _header(2) + bytes(2)),
        _MNIST,
        "header says",
    ),
    Case(
        "an IDX file of 255 axes",
        _idx(bytes([0, 0, 8, 255]) + bytes(50), _header(2) + bytes(2)),
        _MNIST,
        "idx3",
    ),
    Case("a gzip bomb of 4 GB as an IDX file", _gzip_bomb, _MNIST, "train-images"),
    Case(
        "a terabyte of zeros as an IDX file",
        lambda p: (
            _idx(_TWO, _header(2) + bytes(2))(p),
            sparse(p.path("root/mnist/train-images-idx3-ubyte")),
        ),
        _MNIST,
        "train-images",
    ),
    Case(
        "labels beyond the model's classes from a factory",
        _factory(f"return {_ONE}, 77"),
        _FACTORY,
        "label 77",
    ),
    Case("negative labels from a factory", _factory(f"return {_ONE}, -1"), _FACTORY, "label -1"),
    Case(
        "NaN in samples of a factory",
        _factory("return torch.full((1, 28, 28), float('nan')), 0"),
        _FACTORY,
        "NaN",
    ),
    Case(
        "samples of another shape than the model's inputs",
        _factory("return torch.zeros(3, 9, 9), 0"),
        _FACTORY,
        "",
    ),
    Case(
        "samples of different shapes",
        _factory("return torch.zeros(1, 28 + i % 2, 28), 0"),
        _FACTORY,
        "do not stack",
    ),
    Case(
        "a sample of terabytes", _factory("return torch.zeros(1).expand(1 << 20, 1 << 20), 0"), _FACTORY, ""
    ),
]

SHAPES = [
    Case(
        "a network of terabytes",
        lambda p: None,
        "train arch:mlp --arch-arg hidden=[1000000000000] -o out.pt2 --data mnist-5k",
        "mlp",
    ),
    Case(
        "a network of 80 GB",
        lambda p: None,
        "prune arch:mlp --arch-arg hidden=[100000,100000,100000] -o out.pt2",
        "mlp",
    ),
    Case("inputs of terabytes", lambda p: None, "inspect arch:convnet --input-shape 3,1000000,1000000", ""),
    Case(
        "inputs of a negative size",
        lambda p: None,
        "inspect arch:convnet --input-shape 3,-1,32",
        "input-shape",
        2,
    ),
]
