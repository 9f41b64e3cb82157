"""A traced network as data: the functional ATen graph, its weights by name, and rebuilding it after edits."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from sslcli.errors import GraphError

WEIGHT_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_ADDED = "sslcli_weight"


@dataclass(frozen=True)
class Program:
    """A network traced in eval form.

    Attributes:
        exported: functional graph with the weights as placeholders named by the signature, every node with
            its fake value in ``meta['val']``. Its tensors may share storage with the model that was traced;
            nothing in this package writes to them. The graph belongs to the program: edit a copy of it
            (``copy_graph``) and call ``rebuild``.
        tied: parameters and buffers that are another name of the same tensor; the graph reads the other one.
        unused: parameters and buffers of the model that the graph never reads.
        notes: what the eval trace lost against train mode, or had to fix; one sentence each.
        batch_symbol: the symbol of the dynamic batch axis, as printed in shapes; None where it is static.
        batch_hint: the batch size of the example (at least 2 where the batch is dynamic).
    """

    exported: ExportedProgram
    tied: Mapping[str, str] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    batch_symbol: str | None = None
    batch_hint: int = 0

    @property
    def graph(self) -> fx.Graph:
        """The functional graph; not to be edited."""
        graph: fx.Graph = self.exported.graph
        return graph

    @property
    def inputs(self) -> list[fx.Node]:
        """The placeholders of the user's inputs, in order."""
        return [node for node, spec in self._placeholders() if spec.kind == InputKind.USER_INPUT]

    @property
    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The positional and keyword inputs that were traced with."""
        example: tuple[tuple[Any, ...], dict[str, Any]] | None = self.exported.example_inputs
        return example

    def weights(self) -> dict[str, torch.Tensor]:
        """Every parameter, buffer and lifted constant by name; tied ones under each of their names."""
        constants = self.exported.constants
        return {
            name: self.exported.state_dict[name] if name in self.exported.state_dict else constants[name]
            for name in self.kinds()
        }

    def kinds(self) -> dict[str, InputKind]:
        """Whether a name of ``weights`` is a parameter, a buffer or a constant."""
        specs = self.exported.graph_signature.input_specs
        return {str(spec.target): spec.kind for spec in specs if spec.kind in WEIGHT_KINDS}

    def placeholder(self, name: str) -> fx.Node:
        """The placeholder of a weight, by the weight's name."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, fx.Node]:
        return {name: node for node, name in self.names().items()}

    def names(self) -> dict[fx.Node, str]:
        """The weight's name for every placeholder of a weight."""
        return {node: str(spec.target) for node, spec in self._placeholders() if spec.kind in WEIGHT_KINDS}

    def copy_graph(self) -> fx.Graph:
        """A copy of the graph with its metadata, free to be edited and given to ``rebuild``."""
        return copied_graph(self.graph)

    def _placeholders(self) -> list[tuple[fx.Node, InputSpec]]:
        nodes = [node for node in self.graph.nodes if node.op == "placeholder"]
        return list(zip(nodes, self.exported.graph_signature.input_specs, strict=True))


def copied_graph(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph whose nodes keep their names (``copy.deepcopy`` renames some, such as ``input``)."""
    copied = fx.Graph()
    outputs = copied.graph_copy(graph, {})
    copied.output(outputs)
    for new, old in zip(copied.nodes, graph.nodes, strict=True):
        new.name = old.name
        new.meta = dict(old.meta)
        copied._graph_namespace._used_names.add(old.name)
    return copied


def add_weight(
    graph: fx.Graph, name: str, tensor: torch.Tensor, *, kind: InputKind = InputKind.PARAMETER
) -> fx.Node:
    """Put a placeholder for a new weight in front of a graph; ``rebuild`` takes its tensor under ``name``."""
    prefix = {InputKind.PARAMETER: "p_", InputKind.BUFFER: "b_"}.get(kind, "c_")
    with graph.inserting_before(next(iter(graph.nodes))):
        node = graph.placeholder(prefix + name.replace(".", "_"))
    node.meta[_ADDED] = (kind, name)
    node.meta["val"] = tensor
    return node


def rebuild(
    program: Program,
    graph: fx.Graph,
    weights: Mapping[str, torch.Tensor],
    *,
    notes: tuple[str, ...] = (),
) -> Program:
    """A program from an edited graph and new weights.

    Values of nodes are computed anew with fake tensors, so the graph need not carry right ones. The batch
    stays the same symbol. Placeholders of weights may have been erased (their weights are dropped) or added
    (``add_weight``); those of the user's inputs must all be there.

    Args:
        program: the program that ``graph`` was copied from.
        graph: the edited graph; the new program owns it.
        weights: the tensor of every weight whose placeholder is left, by name.
        notes: sentences to add to the program's notes.

    Raises:
        GraphError: the shapes in the edited graph do not fit together.
    """
    specs = _input_specs(program, graph)
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    weights = _parameters(program, specs.values(), weights)
    _propagate(program, graph, specs, weights)
    kept = {str(spec.target): spec for spec in specs.values() if spec.kind in WEIGHT_KINDS}
    in_state = {n for n, s in kept.items() if s.kind == InputKind.PARAMETER or s.persistent}
    exported = make_exported(
        program.exported,
        graph,
        list(specs.values()),
        _output_specs(program, output),
        state={name: weights[name] for name in kept if name in in_state},
        constants={name: weights[name] for name in kept if name not in in_state},
    )
    used = {str(spec.target) for node, spec in specs.items() if node.users}
    return replace(
        program,
        exported=exported,
        tied={alias: name for alias, name in program.tied.items() if alias in kept and name in kept},
        unused=frozenset(kept) - used - frozenset(program.tied),
        notes=program.notes + notes,
    )


def make_exported(
    old: ExportedProgram,
    graph: fx.Graph,
    input_specs: list[InputSpec],
    output_specs: list[OutputSpec],
    *,
    state: dict[str, torch.Tensor],
    constants: dict[str, torch.Tensor],
) -> ExportedProgram:
    """An ExportedProgram of ``graph`` with the calling convention of ``old``.

    Guards are left out: what the trace recorded of the batch (``!= 1``) is an artefact of tracing with a
    batch of two, and the shapes of inputs are checked by their placeholders.
    """
    root = old.module_call_graph[0]
    exported = ExportedProgram(
        root=old.graph_module,
        graph=graph,
        graph_signature=ExportGraphSignature(input_specs, output_specs),
        state_dict=state,
        range_constraints=dict(old.range_constraints),
        module_call_graph=[copy.copy(root)],
        example_inputs=old.example_inputs,
        constants=dict(constants),
        verifiers=old.verifiers,
    )
    exported._guards_code = []
    return exported


def _input_specs(program: Program, graph: fx.Graph) -> dict[fx.Node, InputSpec]:
    old = {node.name: spec for node, spec in program._placeholders()}
    specs: dict[fx.Node, InputSpec] = {}
    for node in graph.nodes:
        if node.op != "placeholder":
            continue
        if _ADDED in node.meta:
            kind, name = node.meta.pop(_ADDED)
            persistent = True if kind == InputKind.BUFFER else None
            specs[node] = InputSpec(kind, TensorArgument(node.name), name, persistent)
        else:
            specs[node] = old[node.name]
    return specs


def _parameters(
    program: Program, specs: Iterable[InputSpec], weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights in use: parameters as ``nn.Parameter``, frozen as they were; tied ones one object."""
    before, found = program.weights(), {}
    for spec in specs:
        if spec.kind not in WEIGHT_KINDS:
            continue
        name = str(spec.target)
        tensor = weights[program.tied.get(name, name)]
        if spec.kind == InputKind.PARAMETER and not isinstance(tensor, nn.Parameter):
            trained = before[name].requires_grad if name in before else tensor.is_floating_point()
            tensor = nn.Parameter(tensor.detach(), requires_grad=trained)
        found[name] = tensor
    for alias, name in program.tied.items():
        if alias in found and name in found:
            found[alias] = found[name]
    return found


def _output_specs(program: Program, output: fx.Node) -> list[OutputSpec]:
    values = list(output.args[0])  # type: ignore[arg-type]
    specs = []
    for value, spec in zip(values, program.exported.graph_signature.output_specs, strict=True):
        is_tensor = isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)
        specs.append(
            OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(value.name), None) if is_tensor else spec
        )
    return specs


def fake_mode_of(graph: fx.Graph) -> FakeTensorMode:
    """The fake mode that the values of a graph live in; a fresh one where there are none."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, FakeTensor):
            return value.fake_mode
    return FakeTensorMode(shape_env=ShapeEnv())


def _propagate(
    program: Program, graph: fx.Graph, specs: Mapping[fx.Node, InputSpec], weights: Mapping[str, torch.Tensor]
) -> None:
    """Set ``meta['val']`` of every node."""
    mode = fake_mode_of(program.graph)
    values: dict[fx.Node, Any] = {}
    fixed = _fixed_sizes(mode)
    for node in graph.nodes:
        if node.op == "placeholder":
            spec = specs[node]
            if spec.kind in WEIGHT_KINDS:
                node.meta["val"] = mode.from_tensor(weights[str(spec.target)].detach(), static_shapes=True)
            values[node] = node.meta.get("val")
        elif node.op == "call_function":
            values[node] = node.meta["val"] = _fake_result(mode, node, values)
            if _fixed_sizes(mode) > fixed:
                raise GraphError(
                    f"the edited graph fixes the batch at {node.name} ({node.target})",
                    "please report the model; it is a fault of sslcli",
                )
        node.meta.pop("tensor_meta", None)


def _fixed_sizes(mode: FakeTensorMode) -> int:
    """How many symbols have become numbers."""
    replaced = mode.shape_env.replacements.values() if mode.shape_env is not None else ()
    return sum(bool(size.is_number) for size in replaced)


def _fake_result(mode: FakeTensorMode, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: values[n])
    try:
        # the Python kernels keep sizes symbolic where those in C++ would fix the batch (pad, unfold)
        with mode, torch.no_grad(), enable_python_dispatcher():
            return node.target(*args, **kwargs)  # type: ignore[operator]
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise GraphError(
            f"the edited graph breaks at {node.name} ({node.target}): {error}",
            "please report the model; it is a fault of sslcli",
        ) from error
