"""Reading and editing ONNX protos: the few verbs that the passes share.

Every pass takes and gives back a ``ModelProto``. Constants are initialisers (``clean`` sees to it), so a
pass asks ``constants(graph)`` for tensors and ``consumers(graph)`` for readers.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from sslcli.bench.graphs import reads as reads
from sslcli.bench.vet import subgraphs as subgraphs

Array = NDArray[np.generic]
_LIGHT_BYTES = 1 << 16  # what shapes are computed from is smaller
Attribute = int | float | str | Sequence[int]


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The initialisers by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def array(tensor: onnx.TensorProto) -> Array:
    """The values of an initialiser."""
    values: Array = numpy_helper.to_array(tensor)
    return values


def set_constant(graph: onnx.GraphProto, name: str, values: Array) -> None:
    """Replace or add the initialiser ``name``."""
    tensor = numpy_helper.from_array(np.ascontiguousarray(values), name)
    for old in graph.initializer:
        if old.name == name:
            old.CopyFrom(tensor)
            return
    graph.initializer.append(tensor)


def integer(node: onnx.NodeProto, name: str, default: int) -> int:
    """One integer attribute, or the default."""
    value = _attribute(node, name)
    return default if value is None else int(value)


def integers(node: onnx.NodeProto, name: str, default: Sequence[int]) -> list[int]:
    """One attribute that is a list of integers, or the default."""
    value = _attribute(node, name)
    return list(default) if value is None else [int(item) for item in value]


def number(node: onnx.NodeProto, name: str, default: float) -> float:
    """One float attribute, or the default."""
    value = _attribute(node, name)
    return default if value is None else float(value)


def text(node: onnx.NodeProto, name: str, default: str) -> str:
    """One string attribute, or the default."""
    value = _attribute(node, name)
    return default if value is None else str(value.decode())


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    found = next((found for found in node.attribute if found.name == name), None)
    return None if found is None else onnx.helper.get_attribute_value(found)


def set_attribute(node: onnx.NodeProto, name: str, value: Attribute) -> None:
    """Replace or add one attribute."""
    kept = [found for found in node.attribute if found.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def consumers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Value name -> the nodes that read it, sub-graphs' readers under their outermost node."""
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in sorted(reads(node)):
            readers[name].append(node)
    return readers


def uses(graph: onnx.GraphProto) -> Counter[str]:
    """How often each value is read: as an input, by a node whose sub-graphs capture it, as an output."""
    found = Counter(outputs(graph))
    for node in graph.node:
        found.update(name for name in node.input if name)
        found.update(reads(node).difference(node.input))
    return found


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Value name -> the node that writes it."""
    return {name: node for node in graph.node for name in node.output if name}


def outputs(graph: onnx.GraphProto) -> set[str]:
    """Names of the graph's outputs."""
    return {value.name for value in graph.output}


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename values wherever they are written or read, sub-graphs included."""
    for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for body in subgraphs(node):
            rename(body, names)


def fresh(base: str, taken: Iterable[str]) -> str:
    """``base``, or ``base_2``, ``base_3``, ... where it is taken."""
    used = set(taken)
    name, number = base, 1
    while name in used:
        number += 1
        name = f"{base}_{number}"
    return name


def names(graph: onnx.GraphProto) -> set[str]:
    """Every value name in use, in sub-graphs too."""
    found = {value.name for value in [*graph.input, *graph.output, *graph.initializer]}
    found |= {name for node in graph.node for name in [*node.input, *node.output]}
    return found.union(*(names(body) for node in graph.node for body in subgraphs(node)))


def hollow(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large initialisers have a type and no values, and nothing is said of inner shapes.

    Enough to infer shapes and types from, without copying the weights.
    """
    made = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    made.functions.extend(model.functions)
    for part in ("input", "output", "node"):
        getattr(made.graph, part).extend(getattr(model.graph, part))
    made.graph.name = model.graph.name
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= _LIGHT_BYTES and math.prod(tensor.dims) <= _LIGHT_BYTES:
            made.graph.initializer.append(tensor)
            continue
        empty = made.graph.initializer.add(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
        empty.data_location = onnx.TensorProto.EXTERNAL
        empty.external_data.add(key="location", value="left out")
    return made


def value_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Element types and shapes by value name, as far as inference gets from the inputs.

    What the file says of inner values counts only where every input is fixed but for the batch: exporters
    write the shapes of their example, which an open height makes untrue.
    """
    inferred = onnx.shape_inference.infer_shapes(hollow(model)).graph
    told = list(model.graph.value_info) if _is_fixed(model.graph) else []
    found = {value.name: value.type.tensor_type for value in told}
    for value in [*inferred.value_info, *inferred.input, *inferred.output]:
        tensor = value.type.tensor_type
        if tensor.elem_type and (tensor.HasField("shape") or value.name not in found):
            found[value.name] = tensor
    found |= {
        tensor.name: onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims).tensor_type
        for tensor in model.graph.initializer
    }
    return found


def _is_fixed(graph: onnx.GraphProto) -> bool:
    """Whether no input leaves an axis beside the batch open."""
    shapes = [value.type.tensor_type.shape.dim for value in graph.input]
    return all(dim.HasField("dim_value") for dims in shapes for dim in dims[1:])


def size_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all initialisers: what decides between one file and external data."""
    return sum(len(tensor.raw_data) or array(tensor).nbytes for tensor in model.graph.initializer)


def opset(model: onnx.ModelProto) -> int:
    """Version of the default operator set."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
