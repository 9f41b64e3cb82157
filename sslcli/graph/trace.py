"""From any ``nn.Module`` to a ``Program``: one ``torch.export`` in eval form, made functional.

Export runs at 150 to 250 nodes a second, so a model is traced once and its graph edited ever after.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import io
import logging
import traceback
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import InputKind, OutputKind, OutputSpec, TensorArgument
from torch.utils import _pytree as pytree

from sslcli.errors import GraphError
from sslcli.graph.functionalise import functionalise
from sslcli.graph.losses import lost_in_eval
from sslcli.graph.module import TracedModule
from sslcli.graph.program import WEIGHT_KINDS, Program, add_weight, copied_graph, make_exported, rebuild

__all__ = ["Program", "add_weight", "rebuild", "trace"]

Example = torch.Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]


def trace(
    model: nn.Module | ExportedProgram | Program,
    example: Example | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
) -> Program:
    """Trace a model in eval form with a dynamic batch.

    The model is left as it was: the training mode of every submodule is restored, and no tensor is written
    to. The program's weights share storage with the model (``TracedModule`` makes its own copies).

    Args:
        model: any module, in train or eval mode, on any device; or a program, which is not traced again.
        example: the positional inputs (one tensor, or a tuple of inputs); a dict stands for keyword inputs.
            The batch is axis 0 of the first tensor; a batch of 1 is repeated to 2. None only for programs.
        kwargs: further keyword inputs.

    Returns:
        A Program; dataclasses and named tuples among its outputs have become dicts and tuples.

    Raises:
        GraphError: the model cannot be traced, for instance since its control flow depends on data.
    """
    if isinstance(model, Program):
        return model
    if isinstance(model, ExportedProgram):
        return from_exported(model)
    if isinstance(model, TracedModule):
        return model.program()
    args, keywords = _arguments(example, kwargs)
    keywords = _in_order(model, keywords)
    args, keywords, batch = _widened(args, keywords)
    exported, notes = _export(model, args, keywords, batch)
    return _program(exported, _tied(model), (*notes, *lost_in_eval(model)), batch)


def from_exported(exported: ExportedProgram) -> Program:
    """A Program from an exported program (of this or another tool), which is not written to."""
    clone = ExportedProgram(
        root=exported.graph_module,
        graph=copied_graph(exported.graph),
        graph_signature=copy.deepcopy(exported.graph_signature),
        state_dict=dict(exported.state_dict),
        range_constraints=dict(exported.range_constraints),
        module_call_graph=list(exported.module_call_graph),
        example_inputs=exported.example_inputs,
        constants=dict(exported.constants),
        verifiers=exported.verifiers,
    )
    state: dict[str, torch.Tensor] = {**exported.state_dict}
    return _program(clone, _tied_tensors(state), (), None)


def _arguments(
    example: Example | None, kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if example is None:
        raise GraphError("no example input was given to trace the model with", "give a tuple of inputs")
    if isinstance(example, dict):
        return (), {**example, **(kwargs or {})}
    args = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    return args, dict(kwargs or {})


def _in_order(model: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword inputs in the order of the signature, so that they can also be given by position."""
    names = list(inspect.signature(model.forward).parameters)
    return dict(
        sorted(kwargs.items(), key=lambda item: names.index(item[0]) if item[0] in names else len(names))
    )


def _widened(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], int | None]:
    """The inputs with a batch of at least 2, and the batch size (None where there is no batch axis)."""
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.dim()]
    if not tensors:
        return args, kwargs, None
    batch = tensors[0].shape[0]
    if batch == 0:
        raise GraphError("the example input has a batch of 0", "give an example with a batch of 1 or more")
    if batch > 1:
        return args, kwargs, batch

    def repeated(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x]) if x.dim() and x.shape[0] == 1 else x

    args, kwargs = pytree.tree_map_only(torch.Tensor, repeated, (args, kwargs))
    return args, kwargs, 2


def _export(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], batch: int | None
) -> tuple[ExportedProgram, tuple[str, ...]]:
    """Export with a dynamic batch; with a static one, and a note, where the model does not allow it."""
    plain = _with_plain_outputs(model)
    with _in_eval_mode(model), _quiet():
        exported, failure = _attempt(plain, args, kwargs, batch)
        if exported is not None:
            return exported, ()
        if batch is not None and not _is_data_dependent(failure):
            exported, _ = _attempt(plain, args, kwargs, None)
            if exported is not None:
                note = f"the batch is fixed to {batch}: the model allows no other ({_first_line(failure)})"
                return exported, (note,)
    raise _explained(model, failure) from failure


def _attempt(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], batch: int | None
) -> tuple[ExportedProgram | None, Exception]:
    """The exported program, or None and the reason."""
    try:
        with _without_torchs_traceback():
            return _exported(model, args, kwargs, batch), Exception()
    except Exception as error:  # noqa: BLE001  (export raises a dozen types, among them bare Exceptions)
        failure = error
    if "modified inplace" in str(failure):  # which autograd refuses for some views, and inference does not
        with contextlib.suppress(Exception), torch.no_grad():
            return _exported(model, args, kwargs, batch), failure
    return None, failure


@contextlib.contextmanager
def _without_torchs_traceback() -> Iterator[None]:
    """Torch prints a traceback of an operation that fails on shapes; the error that follows says it too."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(_: logging.LogRecord) -> bool:
    return False


def _exported(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], batch: int | None
) -> ExportedProgram:
    shapes = None
    if batch is not None:
        collection: Any = ShapesCollection()  # type: ignore[no-untyped-call]
        axis = Dim("batch")
        for x in pytree.tree_leaves((args, kwargs)):
            if isinstance(x, torch.Tensor) and x.dim() and x.shape[0] == batch:
                collection[x] = {0: axis}
        shapes = collection.dynamic_shapes(model, args, kwargs)
    return _released(torch.export.export(model, args, kwargs, dynamic_shapes=shapes))


def _released(exported: ExportedProgram) -> ExportedProgram:
    """Without the inputs that export keeps for its guards.

    They hold the symbols that hold them, through C++ where Python's collector cannot follow, so that the
    symbols of every network ever traced would stay in memory.
    """
    for node in exported.graph.nodes:
        environment = getattr(getattr(node.meta.get("val"), "fake_mode", None), "shape_env", None)
        if environment is not None:
            environment.tracked_fakes = []
            break
    return exported


def _program(
    exported: ExportedProgram, tied: dict[str, str], notes: tuple[str, ...], batch: int | None
) -> Program:
    signature, graph = exported.graph_signature, exported.graph
    nodes = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    specs = {spec.arg.name: spec for spec in signature.input_specs}
    by_target = {str(spec.target): nodes[name] for name, spec in specs.items() if spec.kind in WEIGHT_KINDS}
    for alias, name in tied.items():
        if alias in by_target and name in by_target:
            by_target[alias].replace_all_uses_with(by_target[name])
    kinds = {name: spec.kind for name, spec in specs.items()}
    written = functionalise(
        exported.graph_module,
        buffers=[name for name, kind in kinds.items() if kind == InputKind.BUFFER],
        parameters=[name for name, kind in kinds.items() if kind == InputKind.PARAMETER],
    )
    changed = sorted(name for name in written if kinds[name] == InputKind.USER_INPUT)
    if changed:
        notes += (f"the model writes to its input {', '.join(changed)}; the traced network leaves it alone",)
    used = {target for target, node in by_target.items() if node.users}
    symbol, hint = _batch_of(exported, batch)
    return Program(
        exported=make_exported(
            exported,
            graph,
            list(signature.input_specs),
            _outputs(exported),
            state=dict(exported.state_dict),
            constants=dict(exported.constants),
        ),
        tied=tied,
        unused=frozenset(by_target) - used - frozenset(tied),
        notes=notes,
        batch_symbol=symbol,
        batch_hint=hint,
    )


def _outputs(exported: ExportedProgram) -> list[OutputSpec]:
    """The output specs after functionalisation: renamed nodes, and buffers are written in the graph."""
    output = next(node for node in reversed(exported.graph.nodes) if node.op == "output")
    specs = []
    for value, spec in zip(output.args[0], exported.graph_signature.output_specs, strict=True):
        if isinstance(spec.arg, TensorArgument) and spec.kind == OutputKind.USER_OUTPUT:
            spec = OutputSpec(spec.kind, TensorArgument(value.name), spec.target)
        specs.append(spec)
    return specs


def _batch_of(exported: ExportedProgram, batch: int | None) -> tuple[str | None, int]:
    """The symbol and the hint of the batch axis of the first input that has one."""
    user = {
        spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT
    }
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in user and isinstance(value, torch.Tensor) and value.dim():
            size: Any = value.shape[0]
            if isinstance(size, torch.SymInt):
                return str(size.node.expr), int(size.node.hint or batch or 2)
            return None, int(size)
    return None, batch or 0


def _tied(model: nn.Module) -> dict[str, str]:
    """Other names of the same parameter or buffer -> its first name."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    first: dict[int, str] = {}
    return {name: first[id(t)] for name, t in tensors if first.setdefault(id(t), name) != name}


def _tied_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """As ``_tied``, for tensors that share storage and layout."""
    first: dict[tuple[Any, ...], str] = {}
    tied = {}
    for name, tensor in tensors.items():
        key = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        if tensor.numel() and first.setdefault(key, name) != name:
            tied[name] = first[key]
    return tied


@contextlib.contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for the time of the trace; afterwards every submodule has the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        try:
            model.eval()
        except NotImplementedError:  # modules of exported programs refuse; their flags do nothing anyway
            for module, _ in modes:
                module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Export warns, logs and prints of its own internals, about which a user can do nothing.

    What it could not trace it prints as generated code; the error says the line of the model instead.
    """
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(max(before, logging.WARNING))  # each of torch's loggers has a level of its own
        try:
            yield
        finally:
            logging.disable(before)


def _with_plain_outputs(model: nn.Module) -> nn.Module:
    """The same module (sharing everything) whose outputs are tensors in tuples, lists and dicts.

    A pytree of the user's own classes could be exported only after registering them for the whole process,
    and an archive with them could be loaded only where those classes are.
    """
    forward = model.forward

    @functools.wraps(forward)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return _plain(forward(*args, **kwargs))

    clone = object.__new__(type(model))  # copy.copy would go through __getstate__, which some modules refuse
    clone.__dict__.update(model.__dict__)
    clone.__dict__["forward"] = plain
    return clone


def _plain(value: Any) -> Any:
    if isinstance(value, OrderedDict) and type(value) is OrderedDict:
        return OrderedDict((k, _plain(v)) for k, v in value.items())
    if isinstance(value, (Mapping, defaultdict)):
        return {k: _plain(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {k: _plain(v) for k, v in fields.items() if v is not None}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return value


def _is_data_dependent(error: BaseException) -> bool:
    return "DataDependent" in type(error).__name__ or "data-dependent" in str(error).lower()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _explained(model: nn.Module, error: BaseException) -> GraphError:
    """One sentence that names the line of the model's own code that stopped the trace."""
    name, place = type(model).__name__, _model_line(error)
    at = f" at {place}" if place else ""
    if _is_data_dependent(error):
        return GraphError(
            f"{name} cannot be traced: its control flow depends on the data{at}",
            "write that step with tensor operations such as torch.where, or leave it out of the model",
        )
    return GraphError(
        f"{name} cannot be traced{at} ({_first_line(error)})",
        "check the example input" + (" and that line" if place else ", or --input-shape"),
    )


def _model_line(error: BaseException) -> str | None:
    """The innermost frame that lies neither in torch nor here, as ``file.py:12``."""
    ours, theirs = Path(__file__).resolve().parent, Path(torch.__file__).resolve().parent
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        path = Path(frame.filename)
        if path.is_file() and ours not in path.resolve().parents and theirs not in path.resolve().parents:
            return f"{path.name}:{frame.lineno}"
    return None
