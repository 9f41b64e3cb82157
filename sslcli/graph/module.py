"""A program as a module: it runs, trains, moves between devices and keeps the names of its weights."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from sslcli.errors import UsageError
from sslcli.graph.nodes import op_name
from sslcli.graph.program import Program

# Arguments of operators that say whether the network is being trained.
MODE_ARGUMENTS = frozenset({"train", "training", "use_input_stats"})


class TracedModule(nn.Module):
    """Runs and trains a program with weights of its own.

    Parameters and buffers have the dotted names that they had in the model that was traced, so that
    ``state_dict`` and ``load_state_dict`` fit it; tied ones are tied. ``train()`` and ``eval()`` switch the
    batch norms, instance norms and dropouts of the graph. Outputs have the structure of the model's.

    Args:
        program: the program to run; its tensors are copied.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        kinds = program.kinds()
        tensors = {name: _own(tensor, kinds[name]) for name, tensor in program.weights().items()}
        for alias, name in program.tied.items():
            tensors[alias] = tensors[name]
            kinds[alias] = kinds[name]
        persistent = set(program.exported.state_dict)
        for name, tensor in tensors.items():
            _attach(self, name, tensor, persistent=name in persistent or program.tied.get(name) in persistent)
        self._sslcli_program = replace(program, exported=_with_weights(program, {}))
        self._sslcli_run = _runnable(program)
        self._sslcli_holders = {name: _holder(self, name) for name in kinds}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network; takes and returns what the traced model did."""
        signature = self._sslcli_program.exported.module_call_graph[0].signature
        inputs, spec = pytree.tree_flatten((args, kwargs))
        if spec != signature.in_spec:
            inputs = _rearranged(args, kwargs, signature)
        run = self._sslcli_run
        weights = [self._weight(name) for name in run.weights]
        if self.training:
            for name in run.counters:
                self._weight(name).add_(1)
        device = next((x.device for x in (*weights, *inputs) if isinstance(x, torch.Tensor)), None)
        outputs = run.function(self.training, device, *weights, *inputs)
        return pytree.tree_unflatten(outputs, signature.out_spec)

    def program(self) -> Program:
        """The program with the weights as they are now, without a new trace.

        The weights share storage with the module's, unless the module was moved to another device: the
        program's stay on the device that was traced on.
        """
        program = self._sslcli_program
        weights = {}
        for node, name in program.names().items():
            weights[name] = _on(self._weight(name), node.meta["val"].device)
        return replace(program, exported=_with_weights(program, weights))

    def _weight(self, name: str) -> torch.Tensor:
        holder, leaf = self._sslcli_holders[name]
        tensor = holder._parameters[leaf] if leaf in holder._parameters else holder._buffers[leaf]
        assert tensor is not None
        return tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedModule:
        clone = TracedModule(self.program()).train(self.training)
        for name in self._sslcli_holders:
            tensor, fresh = self._weight(name), clone._weight(name)
            fresh.data = fresh.data.to(tensor.device)
            memo[id(tensor)] = fresh
        memo[id(self)] = clone
        return clone

    def __reduce__(self) -> tuple[Callable[..., TracedModule], tuple[Any, ...]]:
        program = self.program()
        archive = io.BytesIO()
        torch.export.save(program.exported, archive)
        rest = replace(program, exported=None)  # type: ignore[arg-type]
        return _unpickled, (archive.getvalue(), rest, self.training)


@dataclass(frozen=True)
class _Run:
    """A graph ready to be called with (training, device, *weights, *inputs)."""

    function: Callable[..., Any]
    weights: tuple[str, ...]  # in the order of the call
    counters: tuple[str, ...]  # num_batches_tracked, once for every batch norm of the graph


def _unpickled(archive: bytes, rest: Program, training: bool) -> TracedModule:
    program = replace(rest, exported=torch.export.load(io.BytesIO(archive)))
    return TracedModule(program).train(training)


def _own(tensor: torch.Tensor, kind: InputKind) -> torch.Tensor:
    values = tensor.detach().clone()
    if kind != InputKind.PARAMETER:
        return values
    trained = tensor.requires_grad if isinstance(tensor, nn.Parameter) else values.is_floating_point()
    return nn.Parameter(values, requires_grad=trained)


def _on(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if tensor.device == device:
        return tensor
    moved = tensor.detach().to(device)
    if not isinstance(tensor, nn.Parameter):
        return moved
    return nn.Parameter(moved, requires_grad=tensor.requires_grad)


def _attach(root: nn.Module, name: str, tensor: torch.Tensor, *, persistent: bool) -> None:
    """Put a tensor under a dotted name; straight into the registries, since any name of the model must do."""
    holder, leaf = _holder(root, name)
    if isinstance(tensor, nn.Parameter):
        holder._parameters[leaf] = tensor
        return
    holder._buffers[leaf] = tensor
    if not persistent:
        holder._non_persistent_buffers_set.add(leaf)


def _holder(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds the tensor of a dotted name (made where it is missing), and the last part."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root._modules[part] = nn.Module()
        child = root._modules[part]
        assert child is not None
        root = child
    return root, leaf


def _with_weights(program: Program, weights: Mapping[str, torch.Tensor]) -> torch.export.ExportedProgram:
    """The program's ExportedProgram over the same graph with other tensors."""
    exported = copy.copy(program.exported)
    in_state = set(program.exported.state_dict) | {
        str(spec.target)
        for spec in exported.graph_signature.input_specs
        if spec.kind == InputKind.PARAMETER or (spec.kind == InputKind.BUFFER and spec.persistent)
    }
    exported._state_dict = {name: tensor for name, tensor in weights.items() if name in in_state}
    exported._constants = {name: tensor for name, tensor in weights.items() if name not in in_state}
    return exported


def _runnable(program: Program) -> _Run:
    """The graph with the mode and the device as inputs, compiled to Python once."""
    graph = program.copy_graph()
    first = next(iter(graph.nodes))
    with graph.inserting_before(first):
        training, device = graph.placeholder("sslcli_training"), graph.placeholder("sslcli_device")
    traced_on = next(
        (v.device for n in graph.nodes if isinstance(v := n.meta.get("val"), torch.Tensor)), None
    )
    names = {node.name: name for node, name in program.names().items()}
    counters = []
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if _switch(node, training) and op_name(node) == "batch_norm":
            counter = _counter(names, node)
            counters += [counter] if counter in names.values() else []
        replaced = pytree.tree_map(
            lambda a: device if a == traced_on else a, (tuple(node.args), dict(node.kwargs))
        )
        node.args, node.kwargs = replaced
    module = fx.GraphModule(program.exported.graph_module, graph)
    weights = [names[node.name] for node in graph.nodes if node.name in names and node.op == "placeholder"]
    return _Run(module, tuple(weights), tuple(counters))


def _switch(node: fx.Node, training: fx.Node) -> bool:
    """Make the mode of a node follow ``training``, where it was in eval mode."""
    if not isinstance(node.target, OpOverload):
        return False
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.name not in MODE_ARGUMENTS:
            continue
        if position < len(node.args):
            if node.args[position] is not False:
                return False
            node.update_arg(position, training)
        else:
            node.update_kwarg(argument.name, training)
        return True
    return False


def _counter(names: Mapping[str, str], node: fx.Node) -> str:
    mean = node.args[3]
    name = names.get(mean.name, "") if isinstance(mean, fx.Node) else ""
    return name.removesuffix("running_mean") + "num_batches_tracked"


def _rearranged(args: tuple[Any, ...], kwargs: dict[str, Any], signature: Any) -> list[Any]:
    """The inputs in the order of the trace, when they were given by name instead of by position or so."""
    names = list(signature.forward_arg_names or [])
    positional, keywords = pytree.tree_unflatten(list(range(signature.in_spec.num_leaves)), signature.in_spec)
    if len(args) <= len(names):
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        wanted = names[: len(positional)]
        if set(given) == {*wanted, *keywords}:
            ordered = (tuple(given[n] for n in wanted), {n: given[n] for n in keywords})
            inputs, spec = pytree.tree_flatten(ordered)
            if spec == signature.in_spec:
                return inputs
    raise UsageError(
        f"the network takes {len(positional)} inputs"
        + (f" and {', '.join(keywords)} by name" if keywords else "")
        + f", but was given {len(args)}"
        + (f" and {', '.join(kwargs)} by name" if kwargs else ""),
        "call it as it was traced",
    )
