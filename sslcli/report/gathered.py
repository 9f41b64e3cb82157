"""A folder of ``--json`` files as a run: what single commands made of one another, for the page.

Commands that were called one by one (by make, say) leave a JSON file each. Who made what of what is in them:
a result names its source and its output.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Json = Mapping[str, Any]
_COMMANDS = ("train", "regularize", "prune", "export", "evaluate", "bench")
_ORDER = {name: number for number, name in enumerate(_COMMANDS)}
_MOST_BYTES = 256 << 20
_SCHEMA = re.compile(r"sslcli/([a-z-]+)/1")


def gathered(folder: Path) -> dict[str, Any] | None:
    """The content that ``run.json`` would have, or None where the folder holds no results.

    Steps come in the order of the work: the makers of a model before those who read it.
    """
    found = dict(_results(sorted(folder.glob("*.json"))))
    if not found:
        return None
    steps = [_step(name, result, found) for name, result in _in_turn(found)]
    failures = [step["result"]["failure"] for step in steps if step["result"].get("failure")]
    return {
        "schema": "sslcli/run/1",
        "recipe": "",
        "folder": str(folder),
        "dry_run": False,
        "seconds": sum(step["seconds"] for step in steps),
        "steps": steps,
        "models": _models(steps, folder),
        "report": None,
        "failure": failures[-1] if failures else None,
    }


def _results(files: Iterable[Path]) -> Iterable[tuple[str, Json]]:
    for file in files:
        content = _read(file)
        match = _SCHEMA.fullmatch(str(content.get("schema")))
        if match and match[1] in _COMMANDS:
            yield re.sub(r"[^A-Za-z0-9_-]", "-", file.stem)[:64], content


def _read(file: Path) -> Json:
    """An object of JSON; empty where the file holds anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.stat().st_size < _MOST_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _in_turn(found: Mapping[str, Json]) -> list[tuple[str, Json]]:
    """By the length of the chain that leads to a result, then by command."""

    def depth(name: str, seen: tuple[str, ...] = ()) -> int:
        needs = [need for need in _needs(name, found) if need not in seen]
        return 1 + max((depth(need, (*seen, name)) for need in needs), default=0)

    return sorted(found.items(), key=lambda item: (depth(item[0]), _ORDER[_command(item[1])], item[0]))


def _needs(name: str, found: Mapping[str, Json]) -> list[str]:
    result = found[name]
    sources = [str(result["source"])] if "source" in result else [str(s) for s in result["models"].values()]
    return [
        other
        for source in sources
        for other, made in found.items()
        if other != name and made.get("output") and _same(str(made["output"]), source)
    ]


def _step(name: str, result: Json, found: Mapping[str, Json]) -> dict[str, Any]:
    return {
        "id": name,
        "uses": _command(result),
        "needs": _needs(name, found),
        "state": "failed" if result.get("failure") else "run",
        "seconds": float(result.get("seconds") or 0.0),
        "outputs": [str(result["output"])] if result.get("output") else [],
        "reason": "",
        "result": dict(result),
    }


def _models(steps: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Rows of the models table: what makers report of their models, beside what others measured of them."""
    makers = {step["id"]: step for step in steps}

    def maker(name: str) -> str:
        while name in makers and makers[name]["uses"] == "export" and makers[name]["needs"]:
            name = makers[name]["needs"][0]
        return name

    by_output = {Path(output).name: step["id"] for step in steps for output in step["outputs"]}
    tested: dict[str, tuple[Json, str]] = {}
    timed: dict[str, Json] = {}
    files = {maker(step["id"]): step for step in steps if _is_onnx(step)}
    for step in steps:
        result = step["result"]
        if step["uses"] == "evaluate" and step["needs"] and result.get("split") == "test":
            tested[maker(step["needs"][0])] = result["metrics"], step["needs"][0]
        elif step["uses"] == "bench":
            for row in result["rows"]:
                name = by_output.get(Path(result["models"].get(row["name"], row["name"])).name, row["name"])
                timed[maker(name)] = row
                if name in makers and _is_onnx(makers[name]):
                    files[maker(name)] = makers[name]  # the one that the latency is of
        elif (result.get("metrics") or {}).get("test"):
            tested.setdefault(step["id"], (result["metrics"]["test"], step["id"]))
    return [
        _row(
            step,
            tested.get(step["id"], ({}, step["id"])),
            timed.get(step["id"], {}),
            files.get(step["id"]),
            folder,
        )
        for step in _rows(steps)
    ]


def _is_onnx(step: Json) -> bool:
    return step["uses"] == "export" and any(Path(output).suffix == ".onnx" for output in step["outputs"])


def _rows(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Makers of models, and exports of a model that no step here made."""
    first = [step for step in steps if step["uses"] == "export" and not step["needs"]]
    return [*first, *(step for step in steps if step["uses"] in ("train", "regularize", "prune"))]


def _row(
    step: Json, tests: tuple[Json, str], times: Json, exported: Json | None, folder: Path
) -> dict[str, Any]:
    tested, tested_as = tests
    shape = step["result"].get("shape") or {}
    return {
        "id": step["id"],
        "error": 1 - tested["accuracy"] if "accuracy" in tested else None,
        "layers": shape.get("layers") or [],
        "macs": shape.get("macs") or 0,
        "macs_packed": shape.get("macs_packed") or 0,
        "params": shape.get("params") or 0,
        "size_bytes": _size(step, folder),
        "latency_ms": times.get("median_ms"),
        "speedup": times.get("speedup"),
        "speedup_low": times.get("speedup_low"),
        "speedup_high": times.get("speedup_high"),
        "metric": {name: value for name, value in tested.items() if name not in ("accuracy", "loss")},
        "onnx": None if exported is None else exported["id"],
        "onnx_bytes": None if exported is None else _size(exported, folder),
        "tested": None if tested_as == step["id"] else tested_as,
    }


def _size(step: Json, folder: Path) -> int:
    """What the command said of its file; or the file itself, where it was or beside the results, says."""
    path = Path(step["outputs"][0])
    found = next((place for place in (path, folder / path.name) if place.is_file()), None)
    return int(step["result"].get("size_bytes") or (found.stat().st_size if found else 0))


def _command(result: Json) -> str:
    return str(result["schema"]).split("/")[1]


def _same(one: str, other: str) -> bool:
    return Path(one) == Path(other) or Path(one).absolute() == Path(other).absolute()
