"""JSON schemas of what ``--json`` writes, derived from the results themselves."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from sslcli.errors import SslcliError
from sslcli.pipeline.results import EvaluateResult, TrainingResult
from sslcli.report.to_json import SCHEMAS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]
_SCALARS: Mapping[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": ["number", "null"]},  # null: not finite
    Any: {},
    SslcliError: {
        "type": "object",
        "properties": {
            "exit_code": {"type": "integer"},
            "what": {"type": "string"},
            "hint": {"type": ["string", "null"]},
        },
        "required": ["exit_code", "what", "hint"],
        "additionalProperties": False,
    },
}


def json_schemas() -> dict[str, Schema]:
    """Every schema by its name, such as ``sslcli/prune/1``."""
    found = {}
    for result, pattern in SCHEMAS.items():
        commands = ("train", "regularize") if result is TrainingResult else ("",)
        for command in commands:
            name = pattern.format(command=command)
            found[name] = _result(result, name)
    return found


def _result(result: type, name: str) -> Schema:
    schema = _object(result)
    properties = {"schema": {"const": name}, **schema["properties"]}
    if result is EvaluateResult:
        # the metrics stand at the top as well, by their names
        schema["additionalProperties"] = _SCALARS[float]
    return {
        "$schema": DIALECT,
        "$id": name,
        "title": str(result.__doc__ or name).strip().splitlines()[0],
        **schema,
        "properties": properties,
        "required": ["schema", *schema["required"]],
    }


def _object(kind: type) -> Schema:
    hints = typing.get_type_hints(kind)
    return {
        "type": "object",
        "properties": {item.name: _schema(hints[item.name]) for item in fields(kind)},
        "required": [item.name for item in fields(kind)],
        "additionalProperties": False,
    }


def _schema(kind: Any) -> Schema:
    if kind in _SCALARS:
        return _SCALARS[kind]
    if is_dataclass(kind) and isinstance(kind, type):
        return _object(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        options = [_schema(option) for option in arguments if option is not type(None)]
        return {"anyOf": [*options, {"type": "null"}]}
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    raise TypeError(f"a result holds a {kind}, which has no schema")
