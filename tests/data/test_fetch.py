import hashlib
import urllib.request

import pytest

from sslcli.data.fetch import FetchError, fetch


@pytest.fixture(autouse=True)
def local_files_answer(closed_world, monkeypatch):
    opener = urllib.request.build_opener()
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: opener.open(url, timeout=timeout))


@pytest.fixture
def served(tmp_path):
    path = tmp_path / "served"
    path.write_bytes(b"the right content")
    return path


def test_the_first_mirror_that_answers_is_used(tmp_path, served):
    checksum = "md5:" + hashlib.md5(b"the right content").hexdigest()
    urls = ((tmp_path / "gone").as_uri(), served.as_uri())
    assert fetch(urls, tmp_path / "new" / "file", checksum).read_bytes() == b"the right content"


def test_a_wrong_checksum_leaves_nothing(tmp_path, served):
    with pytest.raises(FetchError, match="checksum is wrong"):
        fetch((served.as_uri(),), tmp_path / "new" / "file", "sha256:" + "0" * 64)
    assert list((tmp_path / "new").iterdir()) == []


def test_every_mirrors_answer_is_told(tmp_path):
    urls = tuple((tmp_path / name).as_uri() for name in ("first", "second"))
    with pytest.raises(FetchError, match=r"first: .*; .*second: "):
        fetch(urls, tmp_path / "file", "md5:0")
