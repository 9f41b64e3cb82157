import errno
import multiprocessing
import os
import stat

import pytest

from sslcli.errors import OutputError
from sslcli.files import atomic_output, check_writable, lock_output


def test_the_output_appears_whole_and_the_temporary_file_goes(tmp_path):
    with atomic_output(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".txt"
        assert not (tmp_path / "a.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_failure_leaves_what_stood_there(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_output(tmp_path / "a.txt") as temporary:
        temporary.write_text(str(1 / 0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_write_error_is_an_output_error(tmp_path, code):
    with pytest.raises(OutputError, match=r"cannot write|no space"), atomic_output(tmp_path / "a.txt"):
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


def test_an_error_about_another_file_passes_through(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_output(tmp_path / "a.txt"):
        (tmp_path / "input").read_text()


def test_an_error_about_the_temporary_file_is_an_output_error(tmp_path):
    with pytest.raises(OutputError), atomic_output(tmp_path / "a.txt") as temporary:
        temporary.rmdir()


def test_the_mode_is_that_of_an_ordinary_file(tmp_path):
    (tmp_path / "ordinary").write_text("")
    with atomic_output(tmp_path / "a.txt") as temporary:
        temporary.write_text("")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_folders_and_missing_folders_are_refused_early(tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(OutputError, match="does not exist"):
        check_writable(tmp_path / "none" / "a.txt")


def test_devices_and_pipes_are_refused_and_stay(tmp_path):
    """Root may rename a file over /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "out").symlink_to("/proc/self/fd/1")
    for name in ("pipe", "link", "out"):
        with pytest.raises(OutputError, match="is a device or a pipe"), atomic_output(tmp_path / name):
            pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "out").is_symlink()


def test_a_second_holder_is_refused_and_a_later_one_is_not(tmp_path):
    with (
        lock_output(tmp_path / "a"),
        pytest.raises(OutputError, match="another run"),
        lock_output(tmp_path / "a"),
    ):
        pass
    with lock_output(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_removes_what_killed_runs_left_of_this_output_alone(tmp_path):
    kept: list[object] = []
    for name in ("m.pt2", "m.other.pt2"):
        context = atomic_output(tmp_path / name)
        kept += [context, context.__enter__().name]  # never left, as if killed
    with lock_output(tmp_path / "m.pt2"):
        names = {path.name for path in tmp_path.iterdir()}
    assert kept[1] not in names
    assert kept[3] in names


def _count(path, counter, rounds):
    done = 0
    while done < rounds:
        try:
            with lock_output(path):
                value = int(counter.read_text())
                counter.write_text(str(value + 1))
                done += 1
        except OutputError:
            continue


def test_the_lock_excludes_although_its_file_is_unlinked(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_count, args=(tmp_path / "a", counter, 200)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counter.read_text() == "400"
