"""ONNX Runtime sessions as they are timed: explicit threads, bound memory, and the proof where nodes ran."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from sslcli.bench.inputs import (
    Array,
    ModelSource,
    RunSettings,
    describe,
    input_shapes,
    random_inputs,
    read_inputs,
    read_proto,
)
from sslcli.bench.placement import (
    PROVIDER_NAMES,
    NodePlacement,
    cannot_start,
    read_placements,
    require_placement,
    require_provider,
    require_session_provider,
)
from sslcli.errors import DeviceError, InputError, ModelError, OutputError
from sslcli.options.common import Provider
from sslcli.reference import describe as cause


class BoundModel:
    """A session with inputs and outputs bound to memory that is allocated once.

    Attributes:
        placements: the nodes that ran, after the session's own optimisations, and where.
    """

    def __init__(
        self, session: ort.InferenceSession, inputs: Mapping[str, Array], provider: Provider
    ) -> None:
        self._session = session
        self._device = provider
        self._binding = session.io_binding()
        for name, value in inputs.items():
            self._binding.bind_ortvalue_input(name, _to_device(value, provider))
        self.placements = self._first_run()
        self._bind_outputs()

    def run(self) -> None:
        """Run once and return when the results are there. Allocates no inputs and no outputs."""
        # Without run options: given any, the Python wrapper of 1.32 spends 75 us on a failing look-up.
        self._session.run_with_iobinding(self._binding)
        if self._device == "cuda":
            self._binding.synchronize_outputs()

    def outputs(self) -> list[Array]:
        """The outputs of the last run, copied to the host."""
        return list(self._binding.copy_outputs_to_cpu())

    def _first_run(self) -> tuple[NodePlacement, ...]:
        """Run with outputs of unknown shape while the session's profile is recorded, then end the profile."""
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name, self._device, 0)
        try:
            self.run()
        finally:
            profile = Path(self._session.end_profiling())
        return read_placements(_events(profile))

    def _bind_outputs(self) -> None:
        values = self._binding.get_outputs()
        for output, value in zip(self._session.get_outputs(), values, strict=True):
            element = value.element_type()
            kind = onnx.helper.tensor_dtype_to_np_dtype(element)
            empty = ort.OrtValue.ortvalue_from_shape_and_type(
                value.shape(), element if kind.name == "bfloat16" else kind, self._device, 0
            )
            self._binding.bind_ortvalue_output(output.name, empty)


def bind(model: ModelSource, settings: RunSettings, inputs: Mapping[str, Array] | None = None) -> BoundModel:
    """Open ``model`` on the provider of ``settings``, run it once and prove where its nodes ran.

    Args:
        model: an ONNX file, or a serialised model.
        settings: provider, threads, batch and seed.
        inputs: arrays by input name; default: random ones, drawn by ``settings.seed``.

    Raises:
        DeviceError: the provider is missing, or ran only a part of the nodes.
        ModelError: the model cannot be read or run.
        InputError: the model does not take the batch size or leaves a shape open.
    """
    require_ready(settings.provider)
    described = read_inputs(read_proto(model))
    shapes = input_shapes(described, settings)
    with tempfile.TemporaryDirectory(prefix="sslcli-profile-") as folder:
        options = _session_options(settings, _overrides(described, shapes), Path(folder))
        session = _open(model, options, settings)
        feed = inputs if inputs is not None else random_inputs(described, shapes, settings.seed)
        bound = _bind_or_explain(session, feed, settings.provider, model)
    require_placement(bound.placements, settings.provider, describe(model))
    return bound


def _events(profile: Path) -> Any:
    """What ONNX Runtime wrote down; it says nothing where it could not write all."""
    try:
        return json.loads(profile.read_text())
    except (OSError, ValueError) as error:
        raise OutputError(
            f"cannot write ONNX Runtime's record of which provider ran each node to {profile.parent}",
            "free some space there, or point TMPDIR at another folder",
        ) from error


def _session_options(settings: RunSettings, overrides: Mapping[str, int], folder: Path) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised and told once
    # Workers spin during a run, as in service, and stop with it: otherwise those of one model
    # take the cores from the model that is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    for name, size in overrides.items():
        options.add_free_dimension_override_by_name(name, size)
    return options


def _overrides(
    described: Sequence[onnx.ValueInfoProto], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, int]:
    """Sizes of the named symbolic axes; with them ONNX Runtime folds shapes as it would for a fixed model."""
    return {
        dim.dim_param: size
        for item in described
        for dim, size in zip(item.type.tensor_type.shape.dim, shapes[item.name], strict=True)
        if dim.dim_param
    }


def _open(model: ModelSource, options: ort.SessionOptions, settings: RunSettings) -> ort.InferenceSession:
    source = model if isinstance(model, bytes) else str(model)
    chosen = {"use_tf32": "1" if settings.tf32 else "0"} if settings.provider == "cuda" else {}
    try:
        # With its fall-back, what fails on CUDA is silently repeated on the CPU in a new session.
        return ort.InferenceSession(
            source, options, providers=[(PROVIDER_NAMES[settings.provider], chosen)], enable_fallback=0
        )
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime cannot open {describe(model)} ({cause(error)})", "export it again"
        ) from error


def require_ready(provider: Provider) -> None:
    """Raise DeviceError if ONNX Runtime has no ``provider`` or cannot start it here."""
    require_provider(provider)
    if provider == "cuda":
        require_cuda_starts()


def least_model() -> bytes:
    """A model of one node over two numbers: whether a provider works, and what a call costs."""
    value = functools.partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT, shape=[2])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "least", [value("x")], [value("y")])
    opset = onnx.helper.make_opsetid("", 13)
    model: onnx.ModelProto = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


@functools.cache
def require_cuda_starts() -> None:
    """Raise DeviceError if the CUDA provider cannot run a model of one node; loads its libraries first.

    A build of ONNX Runtime with CUDA lists the provider on machines without a driver, CUDA or cuDNN too.
    """
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(
            least_model(), options, providers=[PROVIDER_NAMES["cuda"]], enable_fallback=0
        )
        require_session_provider(session, "cuda")
        session.run(None, {"x": np.ones(2, np.float32)})
    except DeviceError:
        raise
    except Exception as error:
        raise cannot_start("cuda", str(error)) from error


def _bind_or_explain(
    session: ort.InferenceSession, feed: Mapping[str, Array], provider: Provider, model: ModelSource
) -> BoundModel:
    try:
        return BoundModel(session, feed, provider)
    except (InputError, OutputError):
        raise
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime cannot run {describe(model)} ({cause(error)})",
            "give its --input-shape, or export it again",
        ) from error


def _to_device(value: Array, provider: Provider) -> ort.OrtValue:
    if value.dtype.name == "bfloat16":
        if provider == "cuda":
            raise InputError("bfloat16 inputs cannot be bound on CUDA", "export with float32 inputs")
        element = onnx.TensorProto.BFLOAT16
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(value.view(np.uint16), element)
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), provider, 0)
