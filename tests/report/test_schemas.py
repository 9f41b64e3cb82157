import importlib.util

import pytest

from sslcli.pipeline import results
from sslcli.report import to_json
from sslcli.report.schemas import json_schemas

spec = importlib.util.spec_from_file_location("rendered", __file__.replace("test_schemas", "test_render"))
rendered = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rendered)

TYPES = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None),
    "number": (int, float), "integer": int,
}  # fmt: skip


def problems(value, schema, place="$"):
    """What a validator of these few keywords finds wrong."""
    if "anyOf" in schema:
        tried = [problems(value, option, place) for option in schema["anyOf"]]
        return [] if any(not found for found in tried) else tried[0]
    if "const" in schema and value != schema["const"]:
        return [f"{place} is not {schema['const']}"]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(isinstance(value, TYPES[kind]) for kind in kinds):
        return [f"{place} is a {type(value).__name__}, not {kinds}"]
    found = []
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        found += [f"{place}.{name} is missing" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            more = properties.get(name, schema.get("additionalProperties", {}))
            found += (
                [f"{place}.{name} is unknown"] if more is False else problems(item, more, f"{place}.{name}")
            )
    for item in value if isinstance(value, list) else []:
        found += problems(item, schema.get("items", {}), f"{place}[]")
    return found


@pytest.mark.parametrize("result", rendered.OTHERS, ids=lambda result: type(result).__name__)
def test_results_are_what_their_schema_says(result):
    made = to_json(result)
    assert problems(made, json_schemas()[made["schema"]]) == []


def test_bench_and_run_too(bench_result, run_result):
    for result in (bench_result, run_result):
        made = to_json(result)
        assert problems(made, json_schemas()[made["schema"]]) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size_bytes": "1 MB"}, "size_bytes is a str"),
        ({"more": 1}, "more is unknown"),
        ({"schema": "sslcli/export/1"}, "schema is not sslcli/prune/1"),
        ({"layers": [3]}, r"layers\[\] is a int"),
    ],
)
def test_a_schema_refuses_what_is_wrong(change, says):
    made = {**to_json(rendered.PRUNE), **change}
    [problem] = problems(made, json_schemas()["sslcli/prune/1"])
    assert problem.removeprefix("$.").startswith(says.replace("\\", ""))


def test_every_result_has_a_schema_with_a_title():
    schemas = json_schemas()
    assert {"sslcli/train/1", "sslcli/regularize/1", "sslcli/run/1", "sslcli/report/1"} <= set(schemas)
    assert all(schema["title"] and schema["$id"] == name for name, schema in schemas.items())
    named = {
        cls for cls in vars(results).values() if isinstance(cls, type) and cls.__name__.endswith("Result")
    }
    assert len(named - {results.TrainingResult}) + 2 <= len(schemas)
