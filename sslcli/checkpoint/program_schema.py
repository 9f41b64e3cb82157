"""The JSON of an exported program, checked field by field against torch's own schema.

The walk follows the types of `torch._export.serde.schema`. Numbers must be numbers; a text passes only where
a rule below says which texts it may be (names end up in generated Python, operators are looked up,
expressions are evaluated), and what has no rule is refused. Fields that torch would run or look up without
need (guards, stack traces, source functions) are blanked, and those this torch does not know are left out.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import keyword
import re
import types
import typing
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch._export.serde import schema as torch_schema
from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE
from torch._export.serde.union import _Union

from sslcli.checkpoint.expressions import SYMBOL, check_expression
from sslcli.checkpoint.operators import check_operator
from sslcli.checkpoint.symbolic import check_arithmetic
from sslcli.checkpoint.treespec import check_treespec
from sslcli.errors import ModelError

DTYPES: dict[int, torch.dtype] = {int(code): dtype for code, dtype in _SERIALIZE_TO_TORCH_DTYPE.items()}

_SOURCE = "do not use this file unless you know who made it"
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}", re.ASCII)
_DOTTED = re.compile(r"[A-Za-z0-9_-]{1,255}(?:\.[A-Za-z0-9_-]{1,255}){0,60}", re.ASCII)
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_ ,.:>+*/()-]{0,200}", re.ASCII)  # "zeros", "floor", "bij,bjk->bik"
_MODULE_STACK = re.compile(r"[A-Za-z0-9_ ,.;@\[\]()-]{0,20000}", re.ASCII)
_FLOAT_WORDS = ("Infinity", "-Infinity", "NaN")
_MAX_DIMENSION = 1 << 40
_MAX_ELEMENTS = 1 << 33  # of one value at the recorded sizes: 34 GB in float32, above any batch of 2

# Variants of unions that carry code, sub-graphs or objects of custom classes.
_REFUSED_VARIANTS = frozenset(
    {"as_graph", "as_operator", "as_custom_obj", "as_string_to_argument", "custom_obj", "token"}
)
# Inputs of the graph; a text among them would be pasted into the guards.
_INPUT_VARIANTS = frozenset({"as_tensor", "as_sym_int", "as_int", "as_float", "as_bool", "as_none"})


def parse_json(content: bytes, where: str) -> Any:
    """Parse JSON from a file.

    Raises:
        ModelError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where} is not JSON ({type(error).__name__})", "it may be cut short") from error


class Schema:
    """One walk over one file; ``where`` names it in errors."""

    MAX_JSON: ClassVar[int] = 32 << 20  # parsed JSON takes up to 20 times its size

    def __init__(self, where: str) -> None:
        self.where = where

    def program(self, content: Any) -> dict[str, Any]:
        """The checked and cleaned `models/model.json`."""
        program: dict[str, Any] = self._value(torch_schema.ExportedProgram, content, "program")
        graph = program["graph_module"]["graph"]
        for argument in graph["inputs"]:
            if not _INPUT_VARIANTS & argument.keys():
                raise self._refused("inputs", "an input that is neither a tensor nor a number")
        check_arithmetic(program, self.where)
        program["range_constraints"] = _used_ranges(program)
        root = [entry for entry in program["graph_module"]["module_call_graph"] if entry["fqn"] == ""]
        program["graph_module"]["module_call_graph"] = root[:1]
        return program

    def payload_config(self, content: Any) -> dict[str, Any]:
        """The checked config of weights or constants."""
        config: dict[str, Any] = self._value(torch_schema.PayloadConfig, content, "config")
        for name in config["config"]:
            self._name(name, "config")
        return config

    def _value(self, kind: Any, data: Any, place: str) -> Any:
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            inner = [k for k in typing.get_args(kind) if k is not type(None)]
            return None if data is None else self._value(inner[0], data, place)
        if typing.get_origin(kind) is list:
            return [
                self._value(typing.get_args(kind)[0], item, place) for item in self._typed(list, data, place)
            ]
        if typing.get_origin(kind) is dict:
            return self._mapping(typing.get_args(kind)[1], data, place)
        if isinstance(kind, type) and issubclass(kind, _Union):
            return self._union(kind, data, place)
        if dataclasses.is_dataclass(kind):
            return self._record(kind, data, place)
        return self._scalar(kind, data, place)

    def _record(self, kind: Any, data: Any, place: str) -> dict[str, Any]:
        self._typed(dict, data, place)
        result = {}
        for field, hint in _fields(kind):
            path = f"{kind.__name__}.{field.name}"
            if path in _BLANKED:
                result[field.name] = _BLANKED[path]
            elif field.name in data:
                result[field.name] = self._field(path, hint, data[field.name])
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise self._refused(path, "nothing, although the format demands it")
        if kind is torch_schema.Device:
            result = {"type": "cpu" if result["type"] == "cuda" else result["type"], "index": None}
        return result

    def _field(self, path: str, hint: Any, data: Any) -> Any:
        rule = _RULES.get(path)
        if rule is None or data is None:
            return self._value(hint, data, path)
        return rule(self, data, path)

    def _union(self, kind: Any, data: Any, place: str) -> dict[str, Any]:
        self._typed(dict, data, place)
        hints = {field.name: hint for field, hint in _fields(kind)}
        if len(data) != 1 or next(iter(data)) not in hints:
            raise self._refused(place, f"no {kind.__name__} of the format")
        ((name, value),) = data.items()
        if name in _REFUSED_VARIANTS:
            raise self._refused(place, f"{name.removeprefix('as_')}: code, a sub-graph or a custom object")
        path = f"{kind.__name__}.{name}"
        if name in ("as_ints", "as_sym_ints"):
            self._size_of(value, path)
        return {name: self._field(path, hints[name], value)}

    def _mapping(self, kind: Any, data: Any, place: str) -> dict[str, Any]:
        self._typed(dict, data, place)
        result = {}
        for key, value in data.items():
            if not isinstance(key, str) or not _DOTTED.fullmatch(key):
                raise self._refused(place, f"the key {str(key)[:60]!r}")
            result[key] = self._value(kind, value, place)
        return result

    def _scalar(self, kind: Any, data: Any, place: str) -> Any:
        if isinstance(kind, type) and issubclass(kind, enum.IntEnum):
            if type(data) is not int or data not in [int(member) for member in kind]:
                raise self._refused(place, f"{str(data)[:60]!r}, which is no {kind.__name__}")
            return data
        if kind is int:
            return self._typed(int, data, place)
        if kind is bool:
            return self._typed(bool, data, place)
        if kind is float:
            return (
                data if data in _FLOAT_WORDS or type(data) is float else float(self._typed(int, data, place))
            )
        raise self._refused(place, "a text for which there is no rule")

    def _typed(self, kind: type, data: Any, place: str) -> Any:
        if type(data) is not kind:
            raise self._refused(place, f"a {type(data).__name__} where a {kind.__name__} belongs")
        return data

    def _refused(self, place: str, what: str) -> ModelError:
        return ModelError(f"{self.where} is not a program that may be loaded: {place} holds {what}", _SOURCE)

    # Rules of texts and sizes.

    def _identifier(self, data: Any, place: str) -> str:
        if isinstance(data, str) and _IDENTIFIER.fullmatch(data) and not keyword.iskeyword(data):
            return data
        raise self._refused(place, f"the name {str(data)[:60]!r}, which is no identifier")

    def _identifiers(self, data: Any, place: str) -> list[str]:
        return [self._identifier(item, place) for item in self._typed(list, data, place)]

    def _argument_name(self, data: Any, place: str) -> str:
        # Looked up among the operator's own arguments, some of which are keywords ("from").
        if isinstance(data, str) and (data == "" or _IDENTIFIER.fullmatch(data)):
            return data
        raise self._refused(place, f"the name {str(data)[:60]!r}, which is no identifier")

    def _name(self, data: Any, place: str) -> str:
        # Parts such as __class__ would reach into the module object that weights are hung on.
        if (
            isinstance(data, str)
            and _DOTTED.fullmatch(data)
            and not any(p.startswith("__") for p in data.split("."))
        ):
            return data
        raise self._refused(place, f"the name {str(data)[:60]!r}")

    def _path(self, data: Any, place: str) -> str:
        if data == "" or (isinstance(data, str) and _DOTTED.fullmatch(data.replace("@", "_"))):
            return str(data)
        raise self._refused(place, f"the name {str(data)[:60]!r}")

    def _text(self, data: Any, place: str) -> str:
        if isinstance(data, str) and _PLAIN_TEXT.fullmatch(data):
            return data
        raise self._refused(place, f"the text {str(data)[:60]!r}")

    def _texts(self, data: Any, place: str) -> list[str]:
        return [self._text(item, place) for item in self._typed(list, data, place)]

    def _operator(self, data: Any, place: str) -> str:
        return check_operator(self._typed(str, data, place), self.where)

    def _expression(self, data: Any, place: str) -> str:
        return check_expression(self._typed(str, data, place), self.where)

    def _tree(self, data: Any, place: str) -> str:
        return check_treespec(self._typed(str, data, place), self.where)

    def _device(self, data: Any, place: str) -> str:
        if data in ("cpu", "cuda"):
            return str(data)
        raise self._refused(place, f"the device {str(data)[:60]!r}")

    def _metadata(self, data: Any, place: str) -> dict[str, str]:
        stack = self._typed(dict, data, place).get("nn_module_stack")
        if isinstance(stack, str) and _MODULE_STACK.fullmatch(stack) and _three_parts(stack):
            return {"nn_module_stack": stack}
        return {}

    def _ranges(self, data: Any, place: str) -> dict[str, Any]:
        for key in self._typed(dict, data, place):
            if not SYMBOL.fullmatch(str(key)):
                raise self._refused(place, f"the symbol {str(key)[:60]!r}")
        return {key: self._value(torch_schema.RangeConstraint, value, place) for key, value in data.items()}

    def _verifiers(self, data: Any, place: str) -> list[str]:
        if all(item in ("ATEN", "TRAINING") for item in self._typed(list, data, place)):
            return list(data)
        raise self._refused(place, "an unknown dialect")

    def _sizes(self, data: Any, place: str) -> list[dict[str, Any]]:
        self._size_of(data, place)
        return [self._value(torch_schema.SymInt, item, place) for item in data]

    def _size_of(self, data: Any, place: str) -> None:
        """Refuse sizes whose product would need terabytes."""
        count = 1
        for item in self._typed(list, data, place):
            value = item.get("as_int", 1) if isinstance(item, dict) else item
            if type(value) is int and value > 1:
                count *= value
            if count > _MAX_ELEMENTS and place != "TensorMeta.strides":
                raise self._refused(place, f"a size of more than {_MAX_ELEMENTS} elements")


_Rule = Callable[[Schema, Any, str], Any]
_RULES: dict[str, _Rule] = {
    "TensorArgument.name": Schema._identifier,
    "TokenArgument.name": Schema._identifier,
    "SymIntArgument.as_name": Schema._identifier,
    "SymFloatArgument.as_name": Schema._identifier,
    "SymBoolArgument.as_name": Schema._identifier,
    "Node.name": Schema._identifier,
    "Node.target": Schema._operator,
    "Node.metadata": Schema._metadata,
    "NamedArgument.name": Schema._argument_name,
    "Argument.as_string": Schema._text,
    "Argument.as_strings": Schema._texts,
    "SymExpr.expr_str": Schema._expression,
    "Device.type": Schema._device,
    "TensorMeta.sizes": Schema._sizes,
    "InputToParameterSpec.parameter_name": Schema._name,
    "InputToBufferSpec.buffer_name": Schema._name,
    "InputToTensorConstantSpec.tensor_constant_name": Schema._name,
    "InputToConstantInputSpec.name": Schema._identifier,
    "BufferMutationSpec.buffer_name": Schema._name,
    "ParameterMutationSpec.parameter_name": Schema._name,
    "UserInputMutationSpec.user_input_name": Schema._identifier,
    "GradientToParameterSpec.parameter_name": Schema._name,
    "GradientToUserInputSpec.user_input_name": Schema._identifier,
    "ModuleCallEntry.fqn": Schema._path,
    "ModuleCallSignature.in_spec": Schema._tree,
    "ModuleCallSignature.out_spec": Schema._tree,
    "ModuleCallSignature.forward_arg_names": Schema._identifiers,
    "ExportedProgram.range_constraints": Schema._ranges,
    "ExportedProgram.verifiers": Schema._verifiers,
    "ExportedProgram.torch_version": Schema._text,
    "PayloadMeta.path_name": Schema._identifier,
}
_BLANKED: dict[str, Any] = {
    "ExportedProgram.guards_code": [],
    "GraphModule.metadata": {},
    "GraphModule.treespec_namedtuple_fields": {},
    "Graph.custom_obj_values": {},
}


@functools.cache
def _fields(kind: Any) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(kind, globalns=vars(torch_schema))
    return [(field, hints[field.name]) for field in dataclasses.fields(kind)]


def _used_ranges(program: dict[str, Any]) -> dict[str, Any]:
    """The ranges of symbols that occur; torch warns about the others."""
    text = json.dumps(program["graph_module"]["graph"])
    return {key: value for key, value in program["range_constraints"].items() if f"'{key}'" in text}


def _three_parts(stack: str) -> bool:
    """Whether every entry is `key,path,type`, as torch splits it (commas in brackets do not count)."""
    return all(re.sub(r"[\[(][^\[\]()]*[\])]", "", item).count(",") == 2 for item in stack.split(";"))
