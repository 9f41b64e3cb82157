import pytest
import torch

from sslcli import checkpoint
from sslcli.errors import ModelError
from sslcli.lowering import export_onnx
from sslcli.pipeline.onnx_module import OnnxModule


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    loaded = checkpoint.load("arch:lenet")
    path = tmp_path_factory.mktemp("onnx") / "lenet.onnx"
    export_onnx(loaded.model, loaded.example, path)
    return loaded.model, path


def test_it_gives_the_outputs_of_the_model(lenet):
    model, path = lenet
    inputs = torch.randn(3, 1, 28, 28)
    wrapped = OnnxModule(path)
    assert wrapped.input_shape == (1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(wrapped(inputs), model(inputs), rtol=1e-4, atol=1e-5)


def test_inputs_of_another_shape_are_a_model_error(lenet):
    with pytest.raises(ModelError, match="does not run on this data"):
        OnnxModule(lenet[1])(torch.randn(3, 3, 28, 28))


def test_a_file_that_is_not_onnx_is_a_model_error(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"\x00\x01\x02")
    with pytest.raises(ModelError, match="cannot open"):
        OnnxModule(tmp_path / "x.onnx")
