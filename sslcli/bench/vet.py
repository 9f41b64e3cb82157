"""Is an ONNX file what it says? Looked at before anything is computed from it.

What ONNX Runtime refuses by itself is refused here too, so that commands which never run the model end the
same way, with one sentence, and so that nothing is made of a size that only the file claims.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from sslcli.errors import ModelError
from sslcli.reference import describe

MAX_FILE_BYTES = 1 << 31  # protobuf's own limit
MAX_ELEMENTS = 1 << 31  # of one tensor at batch 1; larger ones are in no model that a machine runs
_MAX_DEPTH = 16  # of sub-graphs
_MAX_TURNS = 1 << 20  # of a loop whose count is a constant
_POSITIVE = ("group", "strides", "dilations", "kernel_shape")  # of convolutions
_MOST = 1 << 31
_SMALL = 1024  # elements of initialisers that may say shapes
_SOURCE = "do not use this file unless you know who made it"
_DAMAGED = "export it again"


def check_file(path: Path) -> None:
    """Raise ModelError where ``path`` is no file that could be an ONNX model."""
    if not path.is_file():
        why = "is not a regular file" if path.exists() else "does not exist"
        raise ModelError(f"cannot read {path}, which {why}", "check the path")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ModelError(f"{path} is larger than the 2 GB that an ONNX file can have", _SOURCE)


def require_sound(model: onnx.ModelProto, where: str, folder: Path) -> None:
    """Check a model whose external data are not loaded yet.

    Args:
        model: as it was read.
        where: the file's name, for errors.
        folder: where its external data must lie.

    Raises:
        ModelError: tensors that are not as large as they say, external data outside of the folder, values
            read before they are written or written twice, functions that call themselves, types or shapes
            that contradict each other, names that are no text, sizes that no machine has, a loop without end.
    """
    _check_text(model, where)
    for tensor in _tensors(model.graph, where):
        _check_tensor(tensor, where, folder)
    _check_order(model.graph, set(), where)
    _check_functions(model.functions, where)
    _check_loops(model.graph, where)
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise ModelError(
            f"{where} stores {name} as a sparse initialiser, which is not supported", "store it as a tensor"
        )
    slim = _without_weights(model)
    _check_structure(slim, where)
    _check_convolutions(model.graph, where, {})
    _check_shapes(slim, where)


def _check_text(message: Any, where: str) -> None:
    """Protobuf reads text that is no UTF-8, hands it out as bytes, and fails where it is next written."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in (value,) if hasattr(value, "ListFields") else value:
                _check_text(inner, where)
        elif field.type == field.TYPE_STRING:
            words = value if not isinstance(value, str | bytes) else (value,)
            if any(isinstance(word, bytes) for word in words):
                raise ModelError(f"{where} holds a name that is no UTF-8 text", _DAMAGED)


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The bodies of If, Loop and Scan."""
    found: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def _tensors(graph: onnx.GraphProto, where: str, depth: int = 0) -> Iterator[onnx.TensorProto]:
    if depth > _MAX_DEPTH:
        raise ModelError(f"the sub-graphs of {where} are nested deeper than {_MAX_DEPTH} levels", _SOURCE)
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
        for inner in subgraphs(node):
            yield from _tensors(inner, where, depth + 1)


def _check_tensor(tensor: onnx.TensorProto, where: str, folder: Path) -> None:
    name = f"the tensor {tensor.name[:80]!r} of {where}"
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"{name} has a negative size", _DAMAGED)
    count = math.prod(tensor.dims)
    if tensor.data_type == onnx.TensorProto.STRING:
        return
    try:
        itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{name} has an unknown type ({tensor.data_type})", _DAMAGED) from error
    if uses_external_data(tensor):
        _check_external(tensor, name, folder)
    elif tensor.HasField("raw_data"):
        packed = tensor.data_type in _PACKED
        if not packed and len(tensor.raw_data) != count * itemsize:
            raise ModelError(f"{name} has {len(tensor.raw_data)} bytes for {count} elements", _DAMAGED)
    elif count > sum(len(getattr(tensor, field)) for field in _FIELDS) * 8:
        raise ModelError(f"{name} has fewer values than its {count} elements", _DAMAGED)


_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
# Types of which several share a byte.
_PACKED = {
    value
    for name, value in onnx.TensorProto.DataType.items()
    if name in ("INT4", "UINT4", "INT2", "UINT2", "FLOAT4E2M1")
}


def _check_external(tensor: onnx.TensorProto, name: str, folder: Path) -> None:
    try:
        info = ExternalDataInfo(tensor)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{name} does not say where its data are ({describe(error)})", _DAMAGED) from error
    location = PurePath(info.location)
    if location.is_absolute() or ".." in location.parts or not info.location:
        raise ModelError(f"{name} has its data outside the model's folder ({info.location[:80]!r})", _SOURCE)
    path = folder / location
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{name} has its data outside the model's folder, through a link", _SOURCE)
    if not path.is_file():
        raise ModelError(f"{name} has its data in {info.location[:80]}, which is not there", "copy it too")
    size, offset = path.stat().st_size, info.offset or 0
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    length = size - offset if info.length is None else info.length
    if offset + length > size or (
        tensor.data_type not in _PACKED and length != math.prod(tensor.dims) * itemsize
    ):
        raise ModelError(f"{name} does not fit its data in {info.location[:80]}", "copy both files again")


def _check_order(graph: onnx.GraphProto, outer: set[str], where: str) -> None:
    known = outer | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                raise ModelError(
                    f"{node.op_type[:80]} of {where} reads {name[:80]!r}, which nothing before it writes",
                    "export it again; a cycle or a lost node is the cause",
                )
        for inner in subgraphs(node):
            _check_order(inner, known, where)
        for name in node.output:
            if name and name in known - outer:
                raise ModelError(f"{where} writes {name[:80]!r} twice", _DAMAGED)
        known |= set(node.output)


def _check_functions(functions: Iterable[onnx.FunctionProto], where: str) -> None:
    calls = {
        (function.domain, function.name): {(node.domain, node.op_type) for node in function.node}
        for function in functions
    }
    while calls:
        leaves = [name for name, called in calls.items() if not called & calls.keys()]
        if not leaves:
            raise ModelError(f"a function of {where} calls itself ({next(iter(calls))[1][:80]})", _SOURCE)
        for name in leaves:
            del calls[name]


def _check_loops(graph: onnx.GraphProto, where: str) -> None:
    counts = {tensor.name: tensor for tensor in graph.initializer if math.prod(tensor.dims) == 1}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            counts[node.output[0]] = node.attribute[0].t
        if node.op_type == "Loop" and node.input and node.input[0] in counts:
            tensor = counts[node.input[0]]
            if not uses_external_data(tensor) and int(np.ravel(_array(tensor))[0]) > _MAX_TURNS:
                raise ModelError(f"{where} has a loop of more than {_MAX_TURNS} turns", _SOURCE)
        for inner in subgraphs(node):
            _check_loops(inner, where)


def _array(tensor: onnx.TensorProto) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    values: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = onnx.numpy_helper.to_array(tensor)
    return values


def _check_structure(slim: onnx.ModelProto, where: str) -> None:
    """Operators and their attributes, by ONNX's own checker."""
    known = onnx.ModelProto()
    known.CopyFrom(slim)
    known.ir_version = min(slim.ir_version, onnx.IR_VERSION)
    for value in [*known.graph.input, *known.graph.output]:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()  # the checker wants one; runtimes do not
    try:
        onnx.checker.check_model(known)
    except Exception as error:  # the checker's errors and protobuf's have no common base but Exception
        raise ModelError(f"{where} is not valid ONNX ({describe(error)})", _DAMAGED) from error


def _check_convolutions(graph: onnx.GraphProto, where: str, outer: Mapping[str, Sequence[int]]) -> None:
    sizes = {**outer, **{tensor.name: tensor.dims for tensor in graph.initializer}}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            sizes |= {node.output[0]: found.t.dims for found in node.attribute if found.name == "value"}  # noqa: B035
        if node.op_type in ("Conv", "ConvTranspose") and node.domain in ("", "ai.onnx"):
            for attribute in node.attribute:
                values = attribute.ints if attribute.ints else [attribute.i]
                if attribute.name in _POSITIVE and not all(0 < value < _MOST for value in values):
                    raise ModelError(
                        f"{node.op_type} of {where} has the {attribute.name} {list(values)}", _DAMAGED
                    )
            rows = sizes.get(node.input[1], [0])[:1] if len(node.input) > 1 else [0]
            groups = next((found.i for found in node.attribute if found.name == "group"), 1)
            if not rows or rows[0] % groups:
                raise ModelError(
                    f"{node.op_type} of {where} has {rows[0] if rows else 'no'} rows in {groups} groups",
                    _DAMAGED,
                )
        for inner in subgraphs(node):
            _check_convolutions(inner, where, sizes)


def _check_shapes(slim: onnx.ModelProto, where: str) -> None:
    try:
        inferred = onnx.shape_inference.infer_shapes(slim, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # protobuf's errors and onnx's own have no common base but Exception
        raise ModelError(
            f"the types or shapes of {where} cannot be right ({_last_line(error)})", _DAMAGED
        ) from error
    for value in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        if any(size < 0 for size in dims) or math.prod(dims) > MAX_ELEMENTS:
            raise ModelError(
                f"the tensor {value.name[:80]!r} of {where} would have the sizes {dims}", _SOURCE
            )


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large initialisers as inputs, and without shapes that are only said."""
    slim = onnx.ModelProto(ir_version=model.ir_version)
    slim.opset_import.extend(model.opset_import)
    slim.functions.extend(model.functions)
    slim.graph.name = model.graph.name
    slim.graph.node.extend(model.graph.node)
    slim.graph.input.extend(model.graph.input)
    given = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL and not uses_external_data(tensor):
            slim.graph.initializer.append(tensor)
        elif tensor.name not in given:
            slim.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    for value in model.graph.output:
        output = slim.graph.output.add(name=value.name)
        if value.type.HasField("tensor_type"):
            output.type.tensor_type.elem_type = value.type.tensor_type.elem_type
        else:  # a sequence or a map, of which nothing is said but what it is made of
            output.type.CopyFrom(value.type)
    return slim


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
