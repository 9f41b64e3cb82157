#!/usr/bin/env python3
"""Is any layer of a lowered model slower than its dense form?

Networks with random weights get zeros at random places: whole filters (``rows``), whole columns (c, kh, kw)
of each group (``columns``), or both (``mixed``), at several shares. Each is lowered by measured selection, as
``sslcli export`` does, and every layer is cut out of the dense and of the lowered model with its real shapes
and timed against itself, as ``sslcli bench`` does. A layer counts as slower if even the upper end of its
speedup's 95 % interval lies below the floor; what does is measured once more, with three times the budget.
Norms keep their shifts, so that dead filters are constants other than zero. The torchvision networks need
torchvision.

    python benchmarks/never_slower.py --json never_slower.json
    python benchmarks/never_slower.py --model resnet20 --pattern mixed --zeros 60

A setting that the JSON file already holds is not measured again, so a stopped run continues.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from sslcli.bench import RunSettings, paired_ratio, time_models
from sslcli.bench.graphs import fixed_batch, shaped_graph
from sslcli.bench.host import others_load, read_load, this_host
from sslcli.bench.layers import Layer, match_layers
from sslcli.bench.statistics import Ratio
from sslcli.files import atomic_output
from sslcli.lowering import Decision, export_onnx, lower
from sslcli.models import build
from sslcli.options.common import Provider

SCHEMA = "sslcli/never-slower/1"
PATTERNS = ("rows", "columns", "mixed")
SHARES = (30, 60, 90)
INPUTS = {
    "lenet": (1, 28, 28),
    "convnet": (3, 32, 32),
    "resnet20": (3, 32, 32),
    "caffenet": (3, 227, 227),
    "torchvision:resnet18": (3, 224, 224),
    "torchvision:mobilenet_v2": (3, 224, 224),
    "torchvision:vgg11": (3, 224, 224),
    "torchvision:densenet121": (3, 224, 224),
}
_NORMS = nn.modules.batchnorm._BatchNorm
_ROUNDS = 4


@dataclass(frozen=True)
class Layered:
    """One layer: what it became, and how much faster; times are None where its nodes did not change."""

    layer: str
    weight: tuple[int, ...]
    lowering: str
    dense_ms: float | None
    lowered_ms: float | None
    speedup: Ratio


@dataclass(frozen=True)
class Setting:
    """One network with one pattern of zeros.

    Attributes:
        others_load: share of the processors' time that other processes took meanwhile, None if unknown.
    """

    model: str
    pattern: str
    zeros: int
    provider: Provider
    threads: int
    batch_size: int
    layers: tuple[Layered, ...]
    whole: Ratio
    max_rel_error: float
    others_load: float | None


def main() -> int:
    arguments = _arguments()
    known = _read(arguments.json)
    bad = 0
    print(_header(), flush=True)
    for name, pattern, zeros, batch_size, threads in product(
        arguments.model, arguments.pattern, arguments.zeros, arguments.batch, arguments.threads
    ):
        settings = RunSettings(
            arguments.provider, threads=threads, batch_size=batch_size, budget_s=arguments.budget
        )
        key = (name, pattern, zeros, settings.provider, threads, batch_size)
        if key not in known:
            known[key] = asdict(measure(name, pattern, zeros, settings, arguments.floor, arguments.seed))
            _write(arguments.json, known, settings.provider)
        print(_line(known[key], arguments.floor), flush=True)
        bad += len(_slower(known[key], arguments.floor))
    return min(bad, 1)


def measure(name: str, pattern: str, zeros: int, settings: RunSettings, floor: float, seed: int) -> Setting:
    """Lower one network for ``settings`` and time every layer that changed, and the whole."""
    before = read_load()
    dense = sparse_network(name, pattern, zeros / 100, seed)
    lowered = lower(dense, settings=settings)
    models = [dense.SerializeToString(), lowered.model.SerializeToString()]
    graphs = [shaped_graph(model, settings) for model in models]
    pairs, _ = match_layers(graphs[0], graphs[1:])
    chosen = {decision.layer: decision for decision in lowered.decisions}
    layers = tuple(
        _layered(pair.base, pair.others[0], chosen, graphs[0].types, settings, floor) for pair in pairs
    )
    whole = speedup(models, replace(settings, budget_s=max(2.0, settings.budget_s)))[2]
    load = others_load(before, read_load(), this_host([settings.provider]).cpus)
    return Setting(
        name,
        pattern,
        zeros,
        settings.provider,
        settings.threads,
        settings.batch_size or 1,
        layers,
        whole,
        lowered.max_rel_error,
        load,
    )


def sparse_network(name: str, pattern: str, share: float, seed: int) -> onnx.ModelProto:
    """A network with random weights, the zeros, and norms that have seen data; as dense ONNX."""
    model = build(name, seed=seed)
    if name == "caffenet":  # the table is about convolutions; 220 MB of linear layers time memory
        model.fc6, model.fc7, model.fc8 = nn.Identity(), nn.Identity(), nn.Identity()
    generator = torch.Generator().manual_seed(seed)
    random = np.random.default_rng(seed)
    weighted = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    has_norms = any(isinstance(module, _NORMS) for module in model.modules())
    for module in weighted:
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        is_last = isinstance(module, nn.Linear) and module is weighted[-1]
        kept = zero_pattern(
            module.weight.shape, groups, "columns" if is_last else pattern, share, random, is_last=is_last
        )
        with torch.no_grad():
            module.weight.mul_(torch.from_numpy(kept))
            if module.bias is not None and not has_norms:  # as `regularize` leaves them
                module.bias.mul_((module.weight.flatten(1) != 0).any(1))
    example = torch.randn(2, *INPUTS[name], generator=generator)
    settle_norms(model, example, generator)
    return export_onnx(model.eval(), (example,))


def zero_pattern(
    shape: Sequence[int],
    groups: int,
    pattern: str,
    share: float,
    random: np.random.Generator,
    *,
    is_last: bool = False,
) -> NDArray[np.bool_]:
    """Which weights stay: of each kind of the pattern, ``share`` of its groups go; one at least stays.

    The last layer keeps its rows, since they are the network's outputs.
    """
    mask = np.ones((groups, shape[0] // groups, math.prod(shape[1:])), np.bool_)
    if pattern in ("rows", "mixed") and not is_last:
        rows = mask.reshape(-1, mask.shape[2])
        rows[random.choice(len(rows), min(len(rows) - 1, round(share * len(rows))), replace=False)] = False
    if pattern in ("columns", "mixed"):
        for group in mask:
            count = group.shape[1]
            group[:, random.choice(count, min(count - 1, round(share * count)), replace=False)] = False
    return mask.reshape(shape)


@torch.no_grad()
def settle_norms(model: nn.Module, example: torch.Tensor, generator: torch.Generator) -> None:
    """Random scales and shifts, and a random batch's statistics, so that signals neither die nor grow."""
    norms = [module for module in model.modules() if isinstance(module, _NORMS)]
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.uniform_(0.5, 1.5, generator=generator)
        norm.bias.normal_(0, 0.1, generator=generator)
    if norms:
        model.train()(example)
    for norm in norms:
        if norm.running_var is not None:
            norm.running_var.clamp_(min=1e-4)


def speedup(models: Sequence[bytes], settings: RunSettings) -> tuple[float, float, Ratio]:
    """Median milliseconds of the first and the second model, and how much faster the second is."""
    first, second = time_models(models, replace(settings, rounds=_ROUNDS))
    samples = first.samples
    ratio = paired_ratio(samples.ns, second.samples.ns, seed=settings.seed, rounds=samples.rounds)
    first_ms, second_ms = (float(np.median(timing.samples.ns)) / 1e6 for timing in (first, second))
    return first_ms, second_ms, ratio


def _layered(
    dense: Layer,
    lowered: Layer | None,
    chosen: dict[str, Decision],
    types: dict[str, Any],
    settings: RunSettings,
    floor: float,
) -> Layered:
    weight = types[dense.nodes[0].input[1]].shape
    decision = chosen.get(dense.name)
    form = decision.chosen if decision else "dense"
    if lowered is None:
        return Layered(dense.name, weight, "gone", None, None, Ratio(math.inf, math.inf, math.inf))
    if lowered.model == dense.model:
        return Layered(dense.name, weight, form, None, None, Ratio(1.0, 1.0, 1.0))
    models = [dense.model, lowered.model]
    alone = replace(fixed_batch(settings), budget_s=settings.budget_s / 2)
    measured = speedup(models, alone)
    if measured[2].high < floor:
        measured = speedup(models, replace(alone, budget_s=3 * alone.budget_s, seed=settings.seed + 1))
    return Layered(dense.name, weight, form, *measured)


def _slower(setting: dict[str, Any], floor: float) -> list[dict[str, Any]]:
    return [layer for layer in setting["layers"] if layer["speedup"]["high"] < floor]


def _header() -> str:
    return (
        "| model | zeros | threads | batch | layers | lowered | slowest layer | its speedup | median speedup "
        "| whole model | slower |\n| --- | --- |" + " ---: |" * 4 + " --- |" + " ---: |" * 4
    )


def _line(setting: dict[str, Any], floor: float) -> str:
    layers = setting["layers"]
    changed = [layer for layer in layers if layer["dense_ms"] is not None]
    slowest = min(changed or layers, key=lambda layer: layer["speedup"]["value"])
    whole = setting["whole"]
    slower = _slower(setting, floor)
    middle = float(np.median([layer["speedup"]["value"] for layer in changed])) if changed else 1.0
    return (
        f"| {setting['model'].removeprefix('torchvision:')} | {setting['pattern']} {setting['zeros']} % "
        f"| {setting['threads']} | {setting['batch_size']} | {len(layers)} | {len(changed)} "
        f"| {slowest['layer']} ({slowest['lowering']}) | {_ratio(slowest['speedup'])} | {middle:.2f} "
        f"| {_ratio(whole)} | {len(slower)} |"
    )


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _read(path: Path | None) -> dict[tuple[Any, ...], dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    names = ("model", "pattern", "zeros", "provider", "threads", "batch_size")
    return {tuple(item[name] for name in names): item for item in json.loads(path.read_text())["settings"]}


def _write(path: Path | None, known: dict[tuple[Any, ...], dict[str, Any]], provider: Provider) -> None:
    if path is None:
        return
    merged = {**_read(path), **known}  # another process may have added to it meanwhile
    record = {"schema": SCHEMA, "host": asdict(this_host([provider])), "settings": list(merged.values())}
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", nargs="+", choices=tuple(INPUTS), default=list(INPUTS))
    parser.add_argument("--pattern", nargs="+", choices=PATTERNS, default=list(PATTERNS))
    parser.add_argument("--zeros", type=int, nargs="+", default=list(SHARES), help="per cent")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds of measurement for one layer")
    parser.add_argument("--floor", type=float, default=0.97)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
