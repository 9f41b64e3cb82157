"""The JSON schema of recipes, made from the option models, for editors and other tools."""

from __future__ import annotations

from typing import Any

from pydantic import create_model

from sslcli.options.common import Options
from sslcli.options.steps import STEPS, groups
from sslcli.recipe.model import RecipeKeys


def json_schema() -> dict[str, Any]:
    """The schema, with the options of each command under its ``uses``."""
    schema = RecipeKeys.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = schema["$defs"]
    frame = definitions.pop("StepKeys")
    choices = []
    for name in STEPS:
        options = _with_schema(name)
        definitions |= options.pop("$defs", {})
        definitions[f"with-{name}"] = options
        properties = {
            **frame["properties"],
            "uses": {"const": name, "description": STEPS[name].summary},
            "with": {"anyOf": [{"$ref": f"#/$defs/with-{name}"}, {"type": "null"}]},
        }
        choices.append({**frame, "title": name, "properties": properties})
    schema["properties"]["steps"]["items"] = {"oneOf": choices}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "sslcli recipe", **schema}


def _with_schema(step: str) -> dict[str, Any]:
    """All options of one step as one object."""
    fields: dict[str, Any] = {}
    for kind in groups(step).values():
        for name, field in kind.model_fields.items():
            fields.setdefault(name, (field.annotation, field))
    merged = create_model(f"With{step.title()}", __base__=Options, **fields)
    return merged.model_json_schema()
