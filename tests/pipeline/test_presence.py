"""What is not there is told before torch is imported for it."""

import subprocess
import sys

import pytest

from sslcli.cli.main import main

DATA = ["--data", "mnist-5k"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate", "none.pt2", *DATA], "the saved model none.pt2 does not exist; check the path"),
        (["bench", "here.onnx", "none.onnx"], "the saved model none.onnx does not exist; check the path"),
        (
            ["inspect", "lenet"],
            "the saved model lenet does not exist; check the path, or write arch:lenet for a",
        ),
        (
            ["train", "here.pth", "-o", "x.pt2", "--arch", "none.py:make", *DATA],
            "the architecture none.py:make names none.py, which does not exist",
        ),
        (
            ["evaluate", "here.pth", "--data", "none.py:make"],
            "the data set none.py:make names none.py, which does not exist",
        ),
        (["evaluate", "here.pth", "--data", "imagefolder:none"], "the image folder none does not exist"),
        (
            ["evaluate", "here.pth", *DATA, "--task", "none.py:make"],
            "the task none.py:make names none.py, which does not exist",
        ),
        (
            ["train", "here.pth", "-o", "x.pt2", *DATA, "--teacher", "none.pt2"],
            "the teacher none.pt2 does not exist",
        ),
        (["prune", "none.pt2", "-o", "x.pt2", "--dry-run"], "the saved model none.pt2 does not exist"),
    ],
)
def test_a_missing_file_is_exit_3_and_named(tmp_path, monkeypatch, capfd, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.pth").touch()
    (tmp_path / "here.onnx").touch()
    assert main(arguments) == 3
    assert sentence in capfd.readouterr().err


def test_torch_is_not_imported_to_say_so(tmp_path):
    code = (
        "import sys; from sslcli.cli.main import main; "
        "code = main(['prune', 'none.pt2', '-o', 'x.pt2']); "
        "sys.exit(10 * ('torch' in sys.modules) + code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 3, done.stderr


def test_a_recipe_names_the_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(
        "version: 1\nmodel: {arch: lenet}\nsteps:\n"
        "  - {id: first, uses: train, with: {data: 'none.py:make'}}\n"
        "  - {id: taught, uses: train, with: {teacher: first, data: mnist-5k}}\n"
    )
    assert main(["run", "r.yaml"]) == 3
    assert "r.yaml:4: the data set none.py:make names none.py" in capfd.readouterr().err
