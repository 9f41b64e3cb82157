"""The plan: for every parameter and buffer by name, per axis, the kept indices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from sslcli.errors import PlanError

Index = Annotated[int, Field(ge=0, lt=1 << 31)]
Axis = Annotated[int, Field(ge=0, lt=16)]
Lists = list[Index] | list[list[Index]]
Axes = dict[int, Any]
SCHEMA = "sslcli/plan/1"


@dataclass(frozen=True)
class Plan:
    """What pruning kept and what it set to zero, in indices of the network before.

    Attributes:
        kept: parameter or buffer -> axis -> sorted kept indices; an axis that is whole is absent; None for a
            tensor that went entirely. Axis 1 of a grouped convolution's weight has one list for every group
            that stays.
        zeroed: parameter -> axis -> indices that pruning itself set to zero; empty with threshold 0.
        zeroed_blocks: parameter -> blocks {axis: indices}, each the product of its axes, likewise.
        shapes: the shape before of every tensor in ``kept``.
        added: weights that the network did not have before, with their shapes.
        probe: inputs and outputs of the small network with weights made from their names, to find out
            whether another instance computes the same; None where none could be made.
    """

    kept: dict[str, Axes | None] = field(default_factory=dict)
    zeroed: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    zeroed_blocks: dict[str, list[dict[int, list[int]]]] = field(default_factory=dict)
    shapes: dict[str, list[int]] = field(default_factory=dict)
    added: dict[str, list[int]] = field(default_factory=dict)
    probe: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``; axes become strings."""
        return {
            "schema": SCHEMA,
            "kept": {name: None if axes is None else _keys(axes) for name, axes in self.kept.items()},
            "zeroed": {name: _keys(axes) for name, axes in self.zeroed.items()},
            "zeroed_blocks": {
                name: [_keys(b) for b in blocks] for name, blocks in self.zeroed_blocks.items()
            },
            "shapes": self.shapes,
            "added": self.added,
            "probe": self.probe,
        }

    @staticmethod
    def from_json(data: object) -> Plan:
        """Read a plan.

        Raises:
            PlanError: it is not a plan of this schema.
        """
        try:
            read = _ADAPTER.validate_python(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the top level"
            what = f"the plan is not valid at {place[:120]} ({first['msg']})"
            raise PlanError(what, "use the plan that sslcli prune wrote") from error
        except RecursionError as error:
            raise PlanError(
                "the plan is nested too deeply", "use the plan that sslcli prune wrote"
            ) from error
        return Plan(
            kept={name: None if axes is None else dict(axes) for name, axes in read.kept.items()},
            zeroed=dict(read.zeroed),
            zeroed_blocks=dict(read.zeroed_blocks),
            shapes=dict(read.shapes),
            added=dict(read.added),
            probe=read.probe,
        )

    def then(self, later: Plan) -> Plan:
        """One plan for this one followed by ``later`` (whose indices are those of this one's result)."""
        kept = dict(self.kept)
        for name, axes in later.kept.items():
            if name in self.added:
                continue
            earlier = kept.get(name, {})
            if axes is None or earlier is None:
                kept[name] = None
            else:
                kept[name] = _composed(earlier, axes, self.shapes.get(name) or later.shapes.get(name, []))
        gone = {name for name, axes in later.kept.items() if axes is None}
        added = {name: shape for name, shape in self.added.items() if name not in gone}
        for name in added.keys() & later.kept.keys():
            axes = later.kept[name] or {}
            added[name] = [len(axes[a]) if a in axes else n for a, n in enumerate(added[name])]
        shapes = {**{n: s for n, s in later.shapes.items() if n not in self.added}, **self.shapes}
        return Plan(kept, {}, {}, shapes, {**added, **later.added}, later.probe)


def _keys(axes: Mapping[int, Any]) -> dict[str, Any]:
    return {str(axis): list(values) for axis, values in axes.items()}


def _composed(earlier: Axes, later: Axes, shape: list[int]) -> Axes:
    result = dict(earlier)
    for axis, places in later.items():
        if axis == 1 and _nested(places, earlier.get(1)):
            continue
        before = earlier.get(axis)
        result[axis] = list(places) if before is None else [before[place] for place in places]
    if _nested(later.get(1), earlier.get(1)):
        result[1] = _composed_groups(earlier, later, shape)
    return result


def _nested(*values: Any) -> bool:
    return any(bool(value) and isinstance(value[0], list) for value in values)


def _composed_groups(earlier: Axes, later: Axes, shape: list[int]) -> list[list[int]]:
    """Columns of the groups that are left; which groups those are follows from the rows."""
    first: Any = earlier.get(1)
    second: Any = later.get(1)
    rows = len(earlier[0]) if 0 in earlier else shape[0]
    if first is None:
        return [list(columns) for columns in second]
    if not _nested(first):
        return [[first[place] for place in columns] for columns in second]
    height = rows // len(first)
    present = sorted({place // height for place in later[0]}) if 0 in later else range(len(first))
    if second is None:
        return [first[group] for group in present]
    if not _nested(second):  # of the one group that was left
        second = [second]
    return [
        [first[group][place] for place in columns] for group, columns in zip(present, second, strict=True)
    ]


@checked(config=ConfigDict(extra="forbid"))
class _Read:
    """The schema of a plan's JSON."""

    schema: Annotated[str, Field(pattern=f"^{SCHEMA}$")]
    kept: dict[str, dict[Axis, Lists] | None]
    zeroed: dict[str, dict[Axis, list[Index]]] = Field(default_factory=dict)
    zeroed_blocks: dict[str, list[dict[Axis, list[Index]]]] = Field(default_factory=dict)
    shapes: dict[str, list[Index]] = Field(default_factory=dict)
    added: dict[str, list[Index]] = Field(default_factory=dict)
    probe: dict[str, Any] | None = None


_ADAPTER = TypeAdapter(_Read)


def plan_schema() -> dict[str, Any]:
    """The JSON schema of a plan, from what ``Plan.from_json`` checks."""
    schema = _ADAPTER.json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": SCHEMA}
