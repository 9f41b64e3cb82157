"""What fuzzing has found, each once, so that it stays found."""

import pytest
from network import network

from sslcli.errors import ModelError
from sslcli.lowering.files import read_onnx


def no_version(model):
    model.ClearField("ir_version")


def no_groups(model):
    next(found for found in model.graph.node[3].attribute if found.name == "group").i = 0


@pytest.mark.parametrize("change", [no_version, no_groups])
def test_onnx_that_is_not_what_it_says(change, tmp_path):
    model = network()
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError) as caught:
        read_onnx(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


def test_the_network_is_sound_before(tmp_path):
    (tmp_path / "m.onnx").write_bytes(network().SerializeToString())
    assert len(read_onnx(tmp_path / "m.onnx").graph.node) == 8
