import gzip

import numpy as np
import pytest

from sslcli.data.idx import read_idx
from sslcli.errors import DataError


def idx(shape, values, kind=8):
    head = bytes([0, 0, kind, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return head + bytes(values)


def test_values_stand_in_row_major_order(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(idx((2, 3), range(6)))
    assert read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_gzip_is_seen_by_its_content_not_its_name(tmp_path):
    path = tmp_path / "images-without-suffix"
    path.write_bytes(gzip.compress(idx((4,), [9, 8, 7, 255])))
    assert read_idx(path).tolist() == [9, 8, 7, 255]


def test_an_empty_set_has_its_shape(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(idx((0, 28, 28), []))
    assert tuple(read_idx(path).shape) == (0, 28, 28)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG....", "not an IDX file"),
        (idx((2,), np.zeros(2, np.float32).tobytes(), kind=13), "not an IDX file of unsigned bytes"),
        (idx((2, 3), range(5)), "holds 5 values where its header says 6"),
        (idx((2, 3), range(7)), "holds more than 6 values where its header says 6"),
        (b"\0\0\x08\x03\0\0", "header says"),
        (gzip.compress(idx((900,), [3] * 900), mtime=0)[:-12], "cannot read"),
        (b"\x1f\x8b" + b"garbage", "cannot read"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, content, says):
    path = tmp_path / "broken-idx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_idx(path)
    assert str(path) in caught.value.what
    assert caught.value.hint
