"""Settings of a run, and the inputs that a model is fed under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from sslcli.bench.vet import check_file, require_sound
from sslcli.errors import InputError, ModelError
from sslcli.options.common import Provider
from sslcli.reference import describe as cause

ModelSource = Path | bytes
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class RunSettings:
    """How models are run and timed.

    Attributes:
        provider: ``cpu`` or ``cuda``.
        threads: intra-op threads of every session; nodes run one after the other.
        batch_size: size of every input's batch axis; None: the model's own, which then must be fixed.
        budget_s: seconds of measurement for all models of one comparison together.
        warmup: untimed runs of each model before the first sample.
        rounds: how often models are opened anew, each time for a share of the budget.
        min_blocks: blocks measured even when the budget is spent; a block holds samples of every model.
        max_blocks: blocks measured at most.
        seed: seed of the inputs and of the order inside blocks.
        tf32: whether CUDA may round float32 factors to TF32; ONNX Runtime's own default is yes.
        input_shape: shape without the batch axis for inputs whose other axes are symbolic.
    """

    provider: Provider = "cpu"
    threads: int = 1
    batch_size: int | None = 1
    budget_s: float = 2.0
    warmup: int = 3
    rounds: int = 2
    min_blocks: int = 8
    max_blocks: int = 2000
    seed: int = 0
    tf32: bool = True
    input_shape: tuple[int, ...] | None = None


def describe(model: ModelSource) -> str:
    """How errors name a model."""
    return f"the model of {len(model)} bytes" if isinstance(model, bytes) else str(model)


def read_proto(model: ModelSource) -> onnx.ModelProto:
    """Read a model without the weights that lie in external files; a file is vetted first.

    Raises:
        ModelError: it cannot be read, or is not what it says.
    """
    if isinstance(model, Path):
        check_file(model)
    try:
        if isinstance(model, bytes):
            return onnx.load_from_string(model)
        proto = onnx.load(model, load_external_data=False)
    except OSError as error:
        raise ModelError(f"cannot read {model!s} ({error.strerror or error})", "check the path") from error
    except Exception as error:  # protobuf's DecodeError is not part of its typed interface
        raise ModelError(
            f"{describe(model)} is not an ONNX model ({cause(error)})", "export it again"
        ) from error
    if not proto.graph.node:
        raise ModelError(f"{model} holds no ONNX graph", "name an ONNX model")
    require_sound(proto, str(model), model.parent)
    return proto


def read_inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must give, without initialisers listed among them."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    return [item for item in proto.graph.input if item.name not in constants]


def input_shapes(items: Sequence[onnx.ValueInfoProto], settings: RunSettings) -> dict[str, tuple[int, ...]]:
    """The shapes at which inputs are fed, by name.

    The batch size is that of every input whose first axis is open. Where there is one, other inputs keep what
    they fix (anchors, a table); where there is none, the first input's must be the batch size.

    Raises:
        InputError: the batch axis is fixed to another size, or nothing says the size of another axis.
    """
    fixed = {item.name: _fixed_sizes(item) for item in items}
    first = next((name for name, sizes in fixed.items() if sizes), None)
    is_open = any(sizes and sizes[0] is None for sizes in fixed.values())
    return {item.name: _input_shape(item, settings, keeps=is_open or item.name != first) for item in items}


def _fixed_sizes(item: onnx.ValueInfoProto) -> list[int | None]:
    dims = item.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def _input_shape(item: onnx.ValueInfoProto, settings: RunSettings, *, keeps: bool) -> tuple[int, ...]:
    """The shape of one input, which ``keeps`` its first axis if that is fixed."""
    fixed = _fixed_sizes(item)
    if not fixed:
        return ()
    if keeps and fixed[0] is not None:
        settings = replace(settings, batch_size=fixed[0])
    batch_size = fixed[0] if settings.batch_size is None else settings.batch_size
    if batch_size is None:
        raise InputError(f"input {item.name} has an open batch axis", "say its size with --batch-size")
    if fixed[0] is not None and fixed[0] != batch_size:
        raise InputError(
            f"input {item.name} has a fixed batch of {fixed[0]}, not {batch_size}",
            f"ask for --batch-size {fixed[0]}, or export the model with a dynamic batch axis",
        )
    rest = settings.input_shape
    sizes = fixed[1:]
    if rest is not None and None in sizes and len(rest) != len(sizes):
        raise InputError(
            f"input {item.name} has {len(sizes)} axes beside the batch, --input-shape {len(rest)}",
            "give every axis but the batch, such as 3,224,224",
        )
    if rest is not None and len(rest) == len(sizes):  # inputs of fixed sizes may have another number
        sizes = [given if size is None else size for size, given in zip(sizes, rest, strict=True)]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        raise InputError(
            f"input {item.name} leaves axes beside the batch open", "say its size with --input-shape"
        )
    return (batch_size, *known)


def random_inputs(
    described: Sequence[onnx.ValueInfoProto], shapes: Mapping[str, tuple[int, ...]], seed: int
) -> dict[str, Array]:
    """Normal floats, zeros and ones for integers; the same for models whose inputs agree."""
    generator = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    for item in described:
        shape = shapes[item.name]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
        if np.issubdtype(dtype, np.integer) or dtype == np.bool_:
            feed[item.name] = generator.integers(0, 2, shape).astype(dtype)
        else:
            feed[item.name] = generator.standard_normal(shape, dtype=np.float32).astype(dtype)
    return feed
