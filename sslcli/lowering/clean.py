"""Pass: the same graph with constants as initialisers, dead parts gone and stable names."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner

from sslcli.lowering import protos
from sslcli.lowering.fold_constants import fold_constants

_NO_SHADOWS = 4  # the first IR version in which an initialiser need not be listed as an input


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Tidy a model in place, so that later passes meet one form only.

    1. Functions of the model's own are written out; ``Constant`` nodes become initialisers.
    2. Initialisers are no inputs: old files list them as such, which lets callers replace them.
    3. ``Identity`` nodes are bypassed (unless they join a graph input or constant to an output).
    4. What depends on initialisers alone is computed (``fold_constants``).
    5. Nodes that nothing needs and initialisers that nobody reads go.
    6. Exporters' notes on nodes and values (stack traces, file names) go.
    7. A node with a weight is called after it: ``conv1.weight`` is read by ``conv1``.
    8. Outputs that state no shape get the inferred one, which the standard demands.
    """
    if model.functions:
        model.CopyFrom(onnx.inliner.inline_local_functions(model))
    graph = model.graph
    _constants_to_initialisers(graph)
    _hide_initialisers(model)
    _bypass_identities(graph)
    fold_constants(model)
    drop_dead(graph)
    _drop_notes(model)
    _name_nodes(graph)
    _state_shapes(model)
    return model


def drop_dead(graph: onnx.GraphProto) -> None:
    """Remove nodes whose outputs nobody reads, then unread initialisers and value infos."""
    needed = protos.outputs(graph)
    live: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed |= protos.reads(node)
            live.append(node)
    if len(live) < len(graph.node):
        kept = list(reversed(live))
        del graph.node[:]
        graph.node.extend(kept)
    _keep(graph.initializer, needed)
    _keep(graph.value_info, needed | {name for node in graph.node for name in node.output})


def _keep(field: list[onnx.TensorProto] | list[onnx.ValueInfoProto], wanted: set[str]) -> None:
    for index in reversed(range(len(field))):
        if field[index].name not in wanted:
            del field[index]


def restate_shapes(model: onnx.ModelProto) -> None:
    """Say of inner values and outputs what is inferred, in place of what the file says."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")
    _state_shapes(model)


def _state_shapes(model: onnx.ModelProto) -> None:
    silent = [value for value in model.graph.output if not value.type.tensor_type.HasField("shape")]
    tensors = [value for value in silent if value.type.WhichOneof("value") in (None, "tensor_type")]
    if not tensors:
        return
    inferred = protos.value_types(model)
    for value in tensors:
        if value.name in inferred:
            value.type.tensor_type.CopyFrom(inferred[value.name])


def _constants_to_initialisers(graph: onnx.GraphProto) -> None:
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        values = _constant_value(node)
        if values is None:
            kept.append(node)
        else:
            values.name = node.output[0]
            graph.initializer.append(values)
    del graph.node[:]
    graph.node.extend(kept)


def _hide_initialisers(model: onnx.ModelProto) -> None:
    known = protos.constants(model.graph)
    inputs = [value for value in model.graph.input if value.name not in known]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, _NO_SHADOWS)


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a ``Constant`` node; None for other nodes and for sparse or string constants."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    found = node.attribute[0]
    value = onnx.helper.get_attribute_value(found)
    if found.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        return tensor
    if found.name in ("value_float", "value_floats"):
        return onnx.numpy_helper.from_array(np.asarray(value, np.float32))
    if found.name in ("value_int", "value_ints"):
        return onnx.numpy_helper.from_array(np.asarray(value, np.int64))
    return None


def _bypass_identities(graph: onnx.GraphProto) -> None:
    ends = protos.outputs(graph)
    fixed = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type != "Identity" or node.domain not in ("", "ai.onnx"):
            continue
        source, target = node.input[0], node.output[0]
        if target not in ends:
            graph.node.remove(node)
            protos.rename(graph, {target: source})
        elif source not in ends and source not in fixed:
            graph.node.remove(node)
            keep = [value for value in graph.output if value.name == target]
            protos.rename(graph, {source: target})
            assert keep  # an output keeps its name: only the inner value was renamed


def _drop_notes(model: onnx.ModelProto) -> None:
    graph = model.graph
    for part in [graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]


def _name_nodes(graph: onnx.GraphProto) -> None:
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) >= 2}
    taken: set[str] = set()
    for number, node in enumerate(graph.node):
        weight = next((name for name in node.input if name in weights and name.endswith(".weight")), None)
        base = weight.removesuffix(".weight") if weight else node.name or f"{node.op_type}_{number}"
        node.name = protos.fresh(base, taken)
        taken.add(node.name)
