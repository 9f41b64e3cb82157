"""Pass: 32 bit floats -> 16 bit floats inside, inputs and outputs unchanged."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto

from sslcli.errors import GraphError
from sslcli.lowering import check, protos
from sslcli.lowering.clean import drop_dead
from sslcli.options.export import DType

_ELEMENT = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_LARGEST = {"fp16": 65504.0, "bf16": 3.3895e38}

# Inputs that stay float32 whatever the others are: (operator, position).
_ALWAYS_FLOAT = frozenset(
    {("Resize", 1), ("Resize", 2), ("Upsample", 1), ("NonMaxSuppression", 0)}
    | {("QuantizeLinear", 1), ("DequantizeLinear", 1), ("Range", 0), ("Range", 1), ("Range", 2)}
)
# Operators that are kept in float32, casts around them: sums over many elements overflow in 16 bits, and
# some have no form in 16 bits.
_KEPT = frozenset(
    {"LRN", "Pow", "ReduceSum", "ReduceMean", "ReduceL2", "LayerNormalization", "InstanceNormalization"}
    | {"Softmax", "LogSoftmax", "Exp", "NonMaxSuppression", "Resize", "Upsample", "GroupNormalization"}
    | {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Range"}
)
_MADE = frozenset({"EyeLike", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"})


def convert(model: onnx.ModelProto, dtype: DType) -> onnx.ModelProto:
    """A copy of the model in another precision; ``fp32`` gives the model itself back.

    1. float32 initialisers become 16 bit, values beyond the range its largest number.
    2. Inputs are cast after they come in, outputs before they go out.
    3. Casts to float32 inside become casts to 16 bit.
    4. Operators that lose too much stay float32 between casts.
    bf16 keeps arithmetic in float32 on providers without it: weights are stored in 16 bits and cast when the
    session starts, which ONNX Runtime folds.
    """
    if dtype == "fp32":
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.value_info[:]
    if dtype == "bf16":
        _store_narrow(changed.graph)
    else:
        kinds = {name: tensor.elem_type for name, tensor in protos.value_types(model).items()}
        _compute_narrow(changed.graph, kinds)
    drop_dead(changed.graph)
    return changed


def require_dtype(model: onnx.ModelProto, dtype: DType, feeds: Mapping[str, protos.Array]) -> None:
    """Raise GraphError where a model does not run in another precision.

    Args:
        model: runs on ``feeds``.
        dtype: what it is to be computed or stored in.
        feeds: inputs by name.
    """
    if dtype == "fp32":
        return
    hint = "write it as --dtype fp32" + (" or bf16" if dtype == "fp16" else "")
    if dtype == "fp16" and any(protos.subgraphs(node) for node in model.graph.node):
        raise GraphError("If, Loop and Scan cannot be computed in fp16", hint)
    try:
        check.run_known(convert(model, dtype), feeds, f"the model in {dtype}")
    except GraphError as error:
        raise GraphError(error.what, hint) from error


def _floats(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT]


def _narrow(tensor: onnx.TensorProto, dtype: DType) -> None:
    """Round an initialiser to 16 bits in place."""
    limit = _LARGEST[dtype]
    values = np.clip(protos.array(tensor).astype(np.float32), -limit, limit)
    element = onnx.helper.tensor_dtype_to_np_dtype(_ELEMENT[dtype])
    tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(element), tensor.name))


def _store_narrow(graph: onnx.GraphProto) -> None:
    """Every weight of two axes and more is stored as bf16 and cast to float32 where it is read."""
    for tensor in _floats(graph):
        if len(tensor.dims) < 2:
            continue
        name = tensor.name
        narrow = protos.fresh(f"{name}/bf16", protos.names(graph))
        _narrow(tensor, "bf16")
        tensor.name = narrow
        cast = onnx.helper.make_node("Cast", [narrow], [name], name=f"{name}/Cast", to=TensorProto.FLOAT)
        graph.node.insert(0, cast)


def _compute_narrow(graph: onnx.GraphProto, kinds: Mapping[str, int]) -> None:
    """Arithmetic in fp16 between casts at the ends; ``kinds`` are the element types before."""
    fixed = {
        node.input[position]
        for node in graph.node
        for op, position in _ALWAYS_FLOAT
        if node.op_type == op and position < len(node.input)
    }
    narrowed = {tensor.name for tensor in _floats(graph)} - fixed
    for tensor in graph.initializer:
        if tensor.name in narrowed:
            _narrow(tensor, "fp16")
    for node in graph.node:
        _retarget_cast(node)
    _wrap_kept(graph, fixed, kinds)
    _cast_ends(graph)


def _retarget_cast(node: onnx.NodeProto) -> None:
    if node.op_type == "Cast" and protos.integer(node, "to", 0) == TensorProto.FLOAT:
        protos.set_attribute(node, "to", TensorProto.FLOAT16)
    if node.op_type in _MADE and protos.integer(node, "dtype", 0) == TensorProto.FLOAT:
        protos.set_attribute(node, "dtype", TensorProto.FLOAT16)
    if node.op_type == "ConstantOfShape":
        for found in node.attribute:
            if found.name == "value" and found.t.data_type == TensorProto.FLOAT:
                _narrow(found.t, "fp16")


def _wrap_kept(graph: onnx.GraphProto, fixed: set[str], kinds: Mapping[str, int]) -> None:
    """Casts around the operators that stay in float32, for what floats they read and write."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type not in _KEPT:
            nodes.append(node)
            continue
        for position, name in enumerate(node.input):
            if name and name not in fixed and kinds.get(name, TensorProto.FLOAT) == TensorProto.FLOAT:
                wide = f"{node.name}/{name}/wide"
                nodes.append(_cast(name, wide, TensorProto.FLOAT))
                node.input[position] = wide
        written = [
            name for name in node.output if name and kinds.get(name, TensorProto.FLOAT) == TensorProto.FLOAT
        ]
        node.output[:] = [f"{name}/wide" if name in written else name for name in node.output]
        nodes.append(node)
        nodes += [_cast(f"{name}/wide", name, TensorProto.FLOAT16) for name in written]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _cast(source: str, target: str, element: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], name=f"{source}/to/{target}", to=element)


def _cast_ends(graph: onnx.GraphProto) -> None:
    constant = {tensor.name for tensor in graph.initializer}
    first, last = [], []
    for value in graph.input:
        if value.name in constant or value.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        narrow = f"{value.name}/narrow"
        for node in graph.node:
            node.input[:] = [narrow if name == value.name else name for name in node.input]
        first.append(_cast(value.name, narrow, TensorProto.FLOAT16))
    computed = {name for node in graph.node for name in node.output}
    for value in graph.output:
        if value.type.tensor_type.elem_type != TensorProto.FLOAT or value.name not in computed:
            continue
        narrow = f"{value.name}/narrow"
        for node in graph.node:
            node.output[:] = [narrow if name == value.name else name for name in node.output]
            node.input[:] = [narrow if name == value.name else name for name in node.input]
        last.append(_cast(narrow, value.name, TensorProto.FLOAT))
    nodes = [*first, *graph.node, *last]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
