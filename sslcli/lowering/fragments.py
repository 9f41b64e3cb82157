"""Small graphs that stand in for one node, and putting them in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from sslcli.lowering import protos
from sslcli.lowering.clean import drop_dead
from sslcli.lowering.protos import Array, Attribute
from sslcli.lowering.sites import ConvSite, Floats

# One element in, one element out, whatever the channel; further inputs are scalars (Clip).
_ELEMENT_WISE = frozenset({"Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Elu"})

_EMPTY: Mapping[str, Attribute] = {}


@dataclass(frozen=True)
class Fragment:
    """Nodes in order with their constants; reads the site's input, writes the site's output."""

    nodes: tuple[onnx.NodeProto, ...]
    constants: Mapping[str, Array]


@dataclass
class Builder:
    """Collects the nodes of one fragment under names that begin with the site's.

    Attributes:
        prefix: the site's name.
        ends: what the site reads and writes; no inner name is one of these.
        nodes: so far, in order.
        constants: by name.
    """

    prefix: str
    ends: tuple[str, ...]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)

    def constant(self, values: Array, hint: str) -> str:
        """Add a constant; its name."""
        name = protos.fresh(f"{self.prefix}/{hint}_{len(self.constants)}", self.ends)
        self.constants[name] = np.ascontiguousarray(values)
        return name

    def node(self, op: str, inputs: Sequence[str], attributes: Mapping[str, Attribute] = _EMPTY) -> str:
        """Add a node with one output; the output's name, which is the node's too."""
        name = protos.fresh(f"{self.prefix}/{op}_{len(self.nodes)}", self.ends)
        node = onnx.helper.make_node(op, list(inputs), [name], name=name)
        node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def gather(self, source: str, indices: Array, axis: int) -> str:
        """Indices along an axis; int64."""
        return self.node(
            "Gather", [source, self.constant(indices.astype(np.int64), "indices")], {"axis": axis}
        )

    def conv(
        self,
        source: str,
        weight: Floats,
        bias: Floats | None,
        *,
        strides: Sequence[int] = (),
        pads: Sequence[tuple[int, int]] = (),
        dilations: Sequence[int] = (),
        groups: int = 1,
    ) -> str:
        """A convolution; negative pads crop the input by a Slice first."""
        rank = weight.ndim - 2
        pads = tuple(pads) or ((0, 0),) * rank
        source = self.crop(source, [(min(0, begin), min(0, end)) for begin, end in pads])
        inputs = [source, self.constant(weight, "weight")]
        if bias is not None and bias.any():
            inputs.append(self.constant(bias, "bias"))
        return self.node(
            "Conv",
            inputs,
            {
                "kernel_shape": list(weight.shape[2:]),
                "strides": list(strides) or [1] * rank,
                "pads": [max(0, b) for b, _ in pads] + [max(0, e) for _, e in pads],
                "dilations": list(dilations) or [1] * rank,
                "group": groups,
            },
        )

    def crop(self, source: str, margins: Sequence[tuple[int, int]]) -> str:
        """Cut -begin and -end elements off the spatial axes."""
        axes = [axis for axis, (begin, end) in enumerate(margins) if begin or end]
        if not axes:
            return source
        starts = np.array([-margins[axis][0] for axis in axes], np.int64)
        ends = np.array([margins[axis][1] or np.iinfo(np.int64).max for axis in axes], np.int64)
        where = np.array([axis + 2 for axis in axes], np.int64)
        arrays = [self.constant(starts, "starts"), self.constant(ends, "ends"), self.constant(where, "axes")]
        return self.node("Slice", [source, *arrays])

    def finish(self, output: str) -> Fragment:
        """The fragment whose last node writes ``output``."""
        self.nodes[-1].output[0] = output
        return Fragment(tuple(self.nodes), self.constants)


def replace_node(model: onnx.ModelProto, name: str, fragment: Fragment) -> onnx.ModelProto:
    """A copy of the model with ``fragment`` in the place of the node ``name``.

    Inner names that the model uses already are changed.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    nodes = list(graph.node)
    position = next(index for index, node in enumerate(nodes) if node.name == name)
    fragment = _renamed(fragment, graph, name)
    nodes[position : position + 1] = fragment.nodes
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    for key, values in fragment.constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(values, key))
    del graph.value_info[:]
    _hoist_activation(graph, fragment.nodes[-1].name)
    drop_dead(graph)
    return changed


def _renamed(fragment: Fragment, graph: onnx.GraphProto, replaced: str) -> Fragment:
    """The fragment under names that the graph does not use; the site's input and output keep theirs."""
    taken, nodes_taken = protos.names(graph), {node.name for node in graph.node} - {replaced}
    output = fragment.nodes[-1].output[0]
    own = [*fragment.constants, *(name for node in fragment.nodes for name in node.output if name != output)]
    names: dict[str, str] = {}
    for name in own:
        names[name] = protos.fresh(name, taken)
        taken.add(names[name])
    clash = any(node.name in nodes_taken for node in fragment.nodes)
    if not clash and all(old == new for old, new in names.items()):
        return fragment
    nodes = []
    for node in fragment.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = protos.fresh(node.name, nodes_taken)
        nodes_taken.add(copy.name)
        copy.input[:] = [names.get(name, name) for name in node.input]
        copy.output[:] = [names.get(name, name) for name in node.output]
        nodes.append(copy)
    return Fragment(tuple(nodes), {names[key]: values for key, values in fragment.constants.items()})


def _hoist_activation(graph: onnx.GraphProto, name: str) -> None:
    """Let an activation that alone reads a Gather of channels come before it.

    The convolution above the Gather can then be fused with it, and it works on fewer channels.
    """
    gather = next(node for node in graph.node if node.name == name)
    readers = protos.consumers(graph).get(gather.output[0], [])
    if gather.op_type != "Gather" or len(readers) != 1 or gather.output[0] in protos.outputs(graph):
        return
    (reader,) = readers
    if reader.op_type not in _ELEMENT_WISE or reader.input[0] != gather.output[0]:
        return
    nodes = list(graph.node)
    first, second = nodes.index(gather), nodes.index(reader)
    if any(set(node.output) & set(reader.input[1:]) for node in nodes[first:second]):
        return  # its bounds are computed after the Gather
    source, between, target = gather.input[0], gather.output[0], reader.output[0]
    reader.name = f"{gather.name}/{reader.op_type}"  # it belongs to the layer now
    reader.input[0], reader.output[0] = source, between
    gather.input[0], gather.output[0] = between, target
    order = [*nodes[:first], reader, gather, *nodes[first + 1 : second], *nodes[second + 1 :]]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
    del graph.node[:]
    graph.node.extend(kept)


def site_model(site: ConvSite, fragment: Fragment, opset: int) -> onnx.ModelProto:
    """A fragment alone, as a model with the batch axis open."""
    spatial: Sequence[int | str] = site.spatial or [f"size_{axis}" for axis in range(site.rank)]
    outer: Sequence[int | str | None] = site.outputs or [None] * site.rank
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        list(fragment.nodes),
        "site",
        [value(site.input, onnx.TensorProto.FLOAT, ["batch", site.channels, *spatial])],
        [value(site.output, onnx.TensorProto.FLOAT, ["batch", site.filters, *outer])],
        [onnx.numpy_helper.from_array(values, key) for key, values in fragment.constants.items()],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=_ir_version(opset)
    )


def _ir_version(opset: int) -> int:
    return int(onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]))


def input_names(model: onnx.ModelProto) -> list[str]:
    """Names of the inputs that are fed."""
    known = protos.constants(model.graph)
    return [value.name for value in model.graph.input if value.name not in known]
