from __future__ import annotations

import onnxruntime as ort
import pytest

from sslcli.bench import placement, sessions
from sslcli.bench.inputs import RunSettings
from sslcli.bench.placement import NodePlacement, read_placements, require_placement
from sslcli.bench.sessions import bind
from sslcli.errors import DeviceError

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
HAS_CUDA = CUDA in ort.get_available_providers()


def event(name: str, op: str, provider: str, read: list, written: list) -> dict:
    """One node as a profile of ONNX Runtime tells of it."""
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "args": {
            "op_name": op,
            "provider": provider,
            "input_type_shape": read,
            "output_type_shape": written,
        },
    }


CONV = event("conv", "Conv", CUDA, [{"float": [1, 3, 8, 8]}], [{"float": [1, 4, 8, 8]}])
SHAPE = event("shape", "Shape", CPU, [{"float": [1, 4, 8, 8]}], [{"int64": [4]}])
GATHER = event("gather", "Gather", CPU, [{"int64": [4]}, {"int64": []}], [{"int64": []}])
STRAY = event("nms", "NonMaxSuppression", CPU, [{"float": [1, 9, 4]}], [{"int64": [7, 3]}])
OTHER = {"cat": "Session", "name": "model_run", "args": {}}


def test_profile_is_read_node_by_node():
    found = read_placements([OTHER, CONV, SHAPE, GATHER, STRAY])
    assert [(node.name, node.op_type, node.provider) for node in found] == [
        ("conv", "Conv", CUDA),
        ("shape", "Shape", CPU),
        ("gather", "Gather", CPU),
        ("nms", "NonMaxSuppression", CPU),
    ]
    assert [node.is_shape_arithmetic for node in found] == [False, True, True, False]


def test_node_on_the_cpu_is_a_device_error_that_names_it():
    with pytest.raises(
        DeviceError, match=r"1 of 2 nodes of m\.onnx ran on CPU.* instead of CUDA.*: nms \(NonMax"
    ) as caught:
        require_placement(read_placements([CONV, STRAY]), "cuda", "m.onnx")
    assert caught.value.exit_code == 8


def test_arithmetic_on_shapes_may_stay_on_the_cpu():
    require_placement(read_placements([CONV, SHAPE, GATHER]), "cuda", "m.onnx")


def test_long_lists_of_strays_are_cut():
    strays = [NodePlacement(f"n{i}", "Cast", CPU, is_shape_arithmetic=False) for i in range(8)]
    with pytest.raises(DeviceError, match=r"n4 \(Cast\) and 3 more"):
        require_placement(strays, "cuda", "m.onnx")


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime has CUDA")
def test_cuda_that_is_missing_is_exit_8_and_says_what_to_install(network):
    with pytest.raises(DeviceError) as caught:
        bind(network, RunSettings(provider="cuda"))
    assert caught.value.exit_code == 8
    assert "has no CUDAExecutionProvider" in caught.value.what
    assert "sslcli[gpu]" in caught.value.hint
    assert "overwrite each other" in caught.value.hint


def test_both_packages_installed_are_told_of(monkeypatch):
    monkeypatch.setattr(placement.ort, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(placement.importlib.metadata, "version", lambda name: "1.0")
    with pytest.raises(DeviceError, match="both are installed"):
        placement.require_provider("cuda")


def test_session_that_fell_back_is_a_device_error():
    class Session:
        def get_providers(self) -> list[str]:
            return [CPU]

    with pytest.raises(DeviceError, match=r"could not start it \(it fell back to CPUExecutionProvider\)"):
        placement.require_session_provider(Session(), "cuda")


def test_cuda_that_is_listed_but_does_not_start_is_exit_8(network, monkeypatch):
    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("libcudnn.so.9: cannot open shared object file")

    monkeypatch.setattr(placement.ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(sessions.ort, "InferenceSession", failing)
    sessions.require_cuda_starts.cache_clear()
    with pytest.raises(DeviceError, match=r"could not start it \(libcudnn\.so\.9: cannot open") as caught:
        bind(network, RunSettings(provider="cuda"))
    assert caught.value.exit_code == 8
    assert "driver" in caught.value.hint


def test_sessions_have_no_fall_back(network):
    assert bind(network, RunSettings())._session._enable_fallback is False
