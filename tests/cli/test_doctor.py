import json

import pytest

from sslcli.cli.main import main
from sslcli.pipeline import doctor


def test_doctor_finds_what_the_tests_run_with(capfd):
    assert main(["doctor", "--json", "-"]) == 0
    found = {item["name"]: item for item in json.loads(capfd.readouterr().out)["findings"]}
    assert found["torch"]["state"] == "ok"
    assert "CPUExecutionProvider" in found["providers"]["text"]
    assert "CPUs usable" in found["cpu"]["text"]


def versions(monkeypatch, **changed):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: changed.get(name.replace("-", "_"), real(name)))


def test_what_is_required_and_missing_is_exit_8_and_says_how_to_get_it(monkeypatch, capfd):
    versions(monkeypatch, onnxscript="")
    assert main(["doctor"]) == 8
    out, err = capfd.readouterr()
    assert "pip install onnxscript" in out
    assert err == "Error: missing: onnxscript; install what the table says\n"


def test_two_runtimes_at_once_are_noticed(monkeypatch, capfd):
    versions(monkeypatch, onnxruntime_gpu="1.0")
    assert main(["doctor", "--json", "-"]) == 0
    found = json.loads(capfd.readouterr().out)["findings"]
    notices = [item["text"] for item in found if item["state"] == "notice" and item["name"] == "onnxruntime"]
    assert len(notices) == 1
    assert "both onnxruntime and onnxruntime-gpu" in notices[0]


@pytest.mark.parametrize("name", ["mlxtend", "torchvision", "timm"])
def test_what_is_optional_and_missing_is_a_notice(monkeypatch, capfd, name):
    versions(monkeypatch, **{name: ""})
    assert main(["doctor", "--json", "-"]) == 0
    found = {item["name"]: item for item in json.loads(capfd.readouterr().out)["findings"]}
    assert found[name]["state"] == "notice"
    assert "pip install" in found[name]["text"]
