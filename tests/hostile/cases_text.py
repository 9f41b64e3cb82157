"""Recipes, plans and other JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from case import Case, Place, sparse

_RECIPE = """\
version: 1
model: {arch: lenet}
data: {name: mnist-5k, batch_size: 16}
steps:
  - {id: dense, uses: train, with: {max_steps: 1}}
"""


def _text(text: str | bytes, name: str = "r.yaml") -> Callable[[Place], object]:
    content = text.encode() if isinstance(text, str) else text
    return lambda place: place.path(name).write_bytes(content)


def _laughs() -> str:
    lines = ['a0: &a0 ["ha", "ha"]']
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 40)]
    return "\n".join(lines)


def _python(place: Place) -> None:
    tag = "!!python/object/apply:os.mkdir"
    place.path("r.yaml").write_text(f"{_RECIPE}name: {tag} [{str(place.canary)!r}]\n")


_VALIDATE, _RUN = "recipe validate r.yaml", "run r.yaml -o out"
_MANY = "".join(f"  - {{id: s{i}, uses: inspect, needs: []}}\n" for i in range(30_000))

YAML = [
    Case("aliases that explode to 10^40 values", _text(_laughs()), _VALIDATE, "aliases repeat too much"),
    Case("an alias inside itself", _text("version: &a [*a]\n"), _VALIDATE, "r.yaml:1"),
    Case("10 MB of nested brackets", _text("[" * 10_000_000), _VALIDATE, "at most"),
    Case("200 KB of nested brackets", _text("a: " + "[" * 200_000), _VALIDATE, "nested deeper"),
    Case(
        "200 KB of nested mappings in blocks",
        _text("".join(" " * i + "a:\n" for i in range(600))),
        _VALIDATE,
        "nested deeper",
    ),
    Case("30,000 steps", _text(_RECIPE + _MANY), _VALIDATE, "r.yaml:1: a recipe has at most"),
    Case(
        "a key given twice",
        _text(_RECIPE + "seed: 1\nseed: 2\n"),
        _VALIDATE,
        "r.yaml:7: the key 'seed' is given twice",
    ),
    Case("tabs", _text(_RECIPE + "\tseed: 1\n"), _VALIDATE, "r.yaml:6: a tab"),
    Case("a byte order mark: it is skipped", _text(b"\xef\xbb\xbf" + _RECIPE.encode()), _VALIDATE, code=0),
    Case("UTF-16", _text(_RECIPE.encode("utf-16")), _RUN, "not UTF-8"),
    Case("null bytes", _text(b"version: 1\0\n"), _VALIDATE, "r.yaml:1"),
    Case("a tag that calls Python", _python, _RUN, "is not allowed"),
    Case("a second document", _text(_RECIPE + "---\nversion: 1\n"), _VALIDATE, "second document"),
    Case("a number of 200,000 digits", _text("version: " + "1" * 200_000), _VALIDATE, "r.yaml:1"),
    Case(
        "a step whose name leaves the folder", _text(_RECIPE.replace("dense", "../../evil")), _RUN, "r.yaml:5"
    ),
    Case("an unknown key of 200 KB", _text(_RECIPE + "k" * 200_000 + ": 1\n"), _VALIDATE, "r.yaml:6"),
    Case("a list where a mapping belongs", _text("- 1\n- 2\n"), _VALIDATE, "r.yaml:1"),
    Case("a learning rate of NaN", _text(_RECIPE.replace("max_steps: 1", "lr: .nan")), _VALIDATE, "r.yaml:5"),
    Case("a pipe as the recipe", lambda p: os.mkfifo(p.path("r.yaml")), _VALIDATE, "r.yaml"),
    Case("a folder as the recipe", lambda p: p.path("r.yaml/x"), _RUN, "r.yaml"),
    Case("a terabyte of zeros as the recipe", lambda p: sparse(p.path("r.yaml")), _VALIDATE, "at most"),
]


def _plan(change: Callable[[Any], object]) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        plan = json.loads((place.good / "plan.json").read_text())
        plan = change(plan) or plan
        place.path("plan.json").write_text(json.dumps(plan))

    return make


def _kept(axes: object, name: str = "conv1.weight") -> Callable[[Place], object]:
    return _plan(lambda plan: plan["kept"].update({name: axes}))


_APPLY = "apply-plan plan.json --arch lenet -o out.pt2"

PLANS = [
    Case("a plan that is a list", _plan(lambda plan: [plan]), _APPLY, "plan"),
    Case(
        "a plan of another schema", _plan(lambda plan: plan.update(kept=[1, 2])), _APPLY, "not valid at kept"
    ),
    Case("indices beyond the tensor", _kept({"0": [0, 1, 999]}), _APPLY, "is not in it"),
    Case("negative indices", _kept({"0": [-1]}), _APPLY, "not valid at kept"),
    Case("indices of 10^30", _kept({"0": [10**30]}), _APPLY, "plan"),
    Case("words as indices", _kept({"0": ["a"]}), _APPLY, "plan"),
    Case("an axis that the tensor does not have", _kept({"9": [0]}), _APPLY, "is not in it"),
    Case("lists in lists where an axis has none", _kept({"0": [[0], [0], [0]]}), _APPLY, "plan"),
    Case("a million times the same index", _kept({"0": [0] * 1_000_000}), _APPLY, "is not in it"),
    Case("names that are not in the model", _kept({"0": [0]}, "__class__.__init__"), _APPLY, "plan"),
    Case(
        "a weight to add of terabytes",
        _plan(lambda p: p.update(added={"conv1.bias": [1 << 40]})),
        _APPLY,
        "plan",
    ),
    Case(
        "a probe with inputs of terabytes",
        _plan(lambda p: p["probe"]["inputs"][0].update(shape=[1 << 20, 1, 1 << 20, 28])),
        _APPLY,
        "plan",
    ),
    Case(
        "a probe with inputs of negative size",
        _plan(lambda p: p["probe"]["inputs"][0].update(shape=[-2, 1, 28, 28])),
        _APPLY,
        "plan",
    ),
    Case(
        "a probe whose type is a function of torch",
        _plan(lambda p: p["probe"]["inputs"][0].update(dtype="load")),
        _APPLY,
        "probe",
    ),
    Case("a probe that is a number", _plan(lambda p: p.update(probe=3)), _APPLY, "plan"),
    Case(
        "a probe with other outputs",
        _plan(lambda p: p["probe"]["outputs"][0].update(norm=1e9)),
        _APPLY,
        "computes something else",
    ),
    Case(
        "a plan for another network",
        _plan(lambda plan: None),
        "apply-plan plan.json --arch mlp -o out.pt2",
        "the plan names",
    ),
    Case("100,000 open brackets as a plan", _text("[" * 100_000, "plan.json"), _APPLY, "is not JSON"),
    Case("a number of 200,000 digits as a plan", _text("1" * 200_000, "plan.json"), _APPLY, "plan.json"),
    Case("bytes that are no text as a plan", _text(b"\xff\xfe\0\1", "plan.json"), _APPLY, "is not JSON"),
    Case("a terabyte of zeros as a plan", lambda p: sparse(p.path("plan.json")), _APPLY, "plan.json"),
    Case("a pipe as a plan", lambda p: os.mkfifo(p.path("plan.json")), _APPLY, "plan.json"),
]


def _run_folder(content: object) -> Callable[[Place], object]:
    return lambda place: place.path("run/run.json").write_text(json.dumps(content))


_STEP = {"id": "../../../etc", "uses": "train", "state": "run", "seconds": 1.0}
REPORTS = [
    Case("a run's JSON that is a list", _run_folder([1]), "report run -o page.html", "run.json"),
    Case(
        "a run's JSON without steps",
        _run_folder({"schema": "sslcli/run/1"}),
        "report run -o page.html",
        "run.json",
    ),
    Case(
        "a run whose steps leave its folder",
        _run_folder({"schema": "sslcli/run/1", "steps": [_STEP], "models": []}),
        "report run -o page.html",
        "run.json",
    ),
    Case(
        "100,000 open brackets as a run",
        _text("[" * 100_000, "run/run.json"),
        "report run -o page.html",
        "run.json",
    ),
    Case(
        "a terabyte of zeros as a run",
        lambda p: sparse(p.path("run/run.json")),
        "report run -o page.html",
        "run.json",
    ),
]
