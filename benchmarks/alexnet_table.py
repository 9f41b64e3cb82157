"""The paper's AlexNet table, measured here: dense, SSL and CSR side by side, layer by layer.

CaffeNet's five convolutions get the row and column sparsity of the paper's results #2 and #5, with the live
columns at random places or clustered. Each model is exported, lowered for the setting by measured selection
and compared with its dense form, as ``sslcli export`` and ``sslcli bench --unstructured`` do. Unlike the
paper, which timed the matrix product alone, whole layers are timed: gather, shifts, layout changes and bias.

The paper's layers stand on their own zeros. Here the lowering also drops filters whose weights and bias are
zero, with the columns that read them in the layer below, and filters that nobody below reads. So a layer may
pass the limit of its own zeros; a second limit is without the columns of dead filters. With ``--biases live``
no filter is dead, and only those that nobody reads still go.

    python benchmarks/alexnet_table.py --json table.json
    python benchmarks/alexnet_table.py --pattern 2 --placement random --batch 1 --threads 1
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from sslcli.bench import Comparison, RunSettings, compare
from sslcli.bench.host import this_host
from sslcli.bench.results import Kind, Row
from sslcli.bench.sessions import require_ready
from sslcli.bench.statistics import Ratio, mean_ratio
from sslcli.errors import SslcliError
from sslcli.lowering import export_onnx
from sslcli.lowering.measure import DENSE
from sslcli.lowering.select import Decision, lower
from sslcli.models import build
from sslcli.options.common import Provider

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")
GROUPS = {"conv1": 1, "conv2": 2, "conv3": 1, "conv4": 2, "conv5": 2}
# Live rows and columns of each group. Wen et al. 2016, AlexNet #2: the packed products that they ran.
PACKED = {
    "conv1": [(87, 363)],
    "conv2": [(125, 586), (100, 297)],
    "conv3": [(228, 532)],
    "conv4": [(91, 163), (116, 367)],
    "conv5": [(128, 220), (128, 447)],
}
# AlexNet #5: column sparsity in per cent; rows are whole.
COLUMN_SPARSITY_5 = {"conv1": 0.0, "conv2": 20.9, "conv3": 39.7, "conv4": 39.7, "conv5": 24.6}
PAPER_CPU = {
    2: dict(zip(LAYERS, (1.05, 3.37, 6.27, 9.73, 4.93), strict=True)),
    5: dict(zip(LAYERS, (1.00, 1.27, 1.64, 1.68, 1.32), strict=True)),
}
PAPER_GPU = {
    2: dict(zip(LAYERS, (1.00, 2.37, 4.94, 4.03, 3.05), strict=True)),
    5: dict(zip(LAYERS, (1.00, 1.25, 1.63, 1.72, 1.36), strict=True)),
}
INPUT = (3, 227, 227)
Mask = NDArray[np.bool_]
Biases = Literal["zero", "live"]
_LIVE_BIAS = (0.05, 0.15)


@dataclass(frozen=True)
class Limits:
    """What arithmetic alone would give: weights of a layer / weights that are multiplied.

    Attributes:
        own: by the zeros of the layer itself.
        dead_inputs_gone: also without columns that read a filter which is dead in the layer above.
    """

    own: float
    dead_inputs_gone: float


@dataclass(frozen=True)
class Line:
    """One layer of the table; the speedups are over the dense layer."""

    layer: str
    lowering: str
    dense_ms: float
    ssl_ms: float
    csr_ms: float
    csr_product_ms: float
    ssl: Ratio
    csr: Ratio
    csr_product: Ratio
    limit: float
    limit_dead_inputs_gone: float
    paper: float


@dataclass(frozen=True)
class Table:
    """All layers at one setting."""

    pattern: int
    placement: str
    biases: Biases
    provider: Provider
    threads: int
    batch_size: int
    lines: tuple[Line, ...]
    mean: Ratio
    mean_limit: float
    mean_limit_dead_inputs_gone: float
    mean_paper: float
    whole: Ratio
    difference: float | None


def main() -> int:
    """Run as the command line says; the exit code is that of the error, if there was one."""
    try:
        run(_arguments())
    except SslcliError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Print a table for each setting, and write all of them to the JSON.

    Raises:
        DeviceError: a provider is missing; nothing was timed.
    """
    for provider in arguments.providers:
        require_ready(provider)
    tables: list[Table] = []
    for pattern, placement in product(arguments.pattern, arguments.placement):
        dense, limits = sparse_caffenet(pattern, placement, arguments.seed, arguments.biases)
        for provider, batch_size, threads in product(arguments.providers, arguments.batch, arguments.threads):
            settings = RunSettings(
                provider, threads=threads, batch_size=batch_size, budget_s=arguments.budget
            )
            table = measure(dense, limits, pattern, placement, arguments.biases, settings)
            print(text(table), flush=True)
            tables.append(table)
    if arguments.json:
        record = {
            "schema": "sslcli/alexnet-table/1",
            "host": asdict(this_host(arguments.providers)),
            "tables": [asdict(table) for table in tables],
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def measure(
    dense: bytes,
    limits: Mapping[str, Limits],
    pattern: int,
    placement: str,
    biases: Biases,
    settings: RunSettings,
) -> Table:
    """Lower for ``settings``, then time dense, SSL and CSR against each other."""
    lowered = lower(onnx.load_from_string(dense), settings=settings)
    comparison = compare(
        dense,
        [lowered.model.SerializeToString()],
        providers=[settings.provider],
        threads=settings.threads,
        batch_size=settings.batch_size,
        budget_s=settings.budget_s * len(LAYERS) * 3,
        layers="conv*",
        unstructured=True,
    )
    paper = (PAPER_CPU if settings.provider == "cpu" else PAPER_GPU)[pattern]
    rows = {(row.layer, row.subject, row.kind): row for row in comparison.rows}
    lines = tuple(_line(layer, rows, lowered.decisions, limits[layer], paper[layer]) for layer in LAYERS)
    base, other = (model.label for model in comparison.models)
    pairs = [(rows[layer, base, "onnx"].samples(), rows[layer, other, "onnx"].samples()) for layer in LAYERS]
    return Table(
        pattern,
        placement,
        biases,
        settings.provider,
        settings.threads,
        settings.batch_size or 1,
        lines,
        mean_ratio(pairs, rounds=[rows[layer, other, "onnx"].rounds for layer in LAYERS]),
        float(np.mean([limit.own for limit in limits.values()])),
        float(np.mean([limit.dead_inputs_gone for limit in limits.values()])),
        float(np.mean(list(paper.values()))),
        _whole(comparison),
        comparison.models[1].difference,
    )


def sparse_caffenet(
    pattern: int, placement: str, seed: int, biases: Biases = "zero"
) -> tuple[bytes, dict[str, Limits]]:
    """CaffeNet's convolutional part with the paper's zeros, and each layer's arithmetic limits."""
    model = build("caffenet", seed=seed)
    model.fc6, model.fc7, model.fc8 = nn.Identity(), nn.Identity(), nn.Identity()
    random = np.random.default_rng(seed)
    masks = {}
    for layer in LAYERS:
        weight = model.get_parameter(f"{layer}.weight")
        live = live_groups(layer, weight.shape, pattern)
        masks[layer] = zero_pattern(weight.shape, live, placement, random)
        with torch.no_grad():
            weight.mul_(torch.from_numpy(masks[layer]))
            bias = model.get_parameter(f"{layer}.bias")
            # From a generator of their own, so that the zeros are the same with both kinds of biases; not
            # all alike, since an export keeps equal tensors once.
            values = np.random.default_rng((seed, len(masks))).uniform(*_LIVE_BIAS, bias.shape)
            bias.copy_(torch.from_numpy(values) * (biases == "live"))
    dense = export_onnx(model.eval(), (torch.randn(1, *INPUT),)).SerializeToString()
    return dense, arithmetic_limits(masks, GROUPS, biases)


def arithmetic_limits(
    masks: Mapping[str, Mask], groups: Mapping[str, int], biases: Biases = "zero"
) -> dict[str, Limits]:
    """The limits of layers that read each other's output, the first of them all of its input.

    Args:
        masks: which weights stay, (filters, channels / groups, *kernel), in the order of the layers.
        groups: groups of each layer.
        biases: where they are ``live``, a filter without weights still puts out its bias and is not dead.
    """
    limits = {}
    inputs = None  # which channels of a layer's input are alive; None: all
    for layer, mask in masks.items():
        left = mask if inputs is None else without_channels(mask, inputs, groups[layer])
        limits[layer] = Limits(_limit(mask, groups[layer]), _limit(left, groups[layer]))
        inputs = left.reshape(len(left), -1).any(1) if biases == "zero" else None
    return limits


def without_channels(mask: Mask, inputs: Mask, groups: int) -> Mask:
    """``mask`` without the columns of channels that are not among ``inputs``, (channels,)."""
    filters, channels = mask.shape[:2]
    grouped = mask.reshape(groups, filters // groups, channels, -1)
    return (grouped & inputs.reshape(groups, 1, channels, 1)).reshape(mask.shape)


def _limit(mask: Mask, groups: int) -> float:
    """Weights / live rows x live columns, counted group by group; infinite where nothing is left."""
    grouped = mask.reshape(groups, mask.shape[0] // groups, -1)
    packed = sum(int(part.any(1).sum()) * int(part.any(0).sum()) for part in grouped)
    return mask.size / packed if packed else math.inf


def live_groups(layer: str, shape: Sequence[int], pattern: int) -> list[tuple[int, int]]:
    """Live rows and columns in each group of a layer."""
    if pattern == 2:
        return PACKED[layer]
    columns = math.prod(shape[1:])
    live = round(columns * (1 - COLUMN_SPARSITY_5[layer] / 100))
    return [(shape[0] // GROUPS[layer], live)] * GROUPS[layer]


def zero_pattern(
    shape: Sequence[int], live: Sequence[tuple[int, int]], placement: str, random: np.random.Generator
) -> Mask:
    """Which weights stay, for live rows and columns counted group by group."""
    mask = np.zeros((len(live), shape[0] // len(live), math.prod(shape[1:])), np.bool_)
    for group, (rows, columns) in enumerate(live):
        chosen = random.choice(mask.shape[1], rows, replace=False)
        places = _columns(shape[1:], columns, placement, random)
        mask[group][np.ix_(chosen, places)] = True
    return mask.reshape(shape)


def _columns(
    shape: Sequence[int], count: int, placement: str, random: np.random.Generator
) -> NDArray[np.int64]:
    """Live columns: anywhere, or clustered as training leaves them.

    Trained networks lose whole input channels first and the rim of the kernel before its centre: a column's
    rank is the product of its channel's, its distance from the centre's and a smaller one of its own.
    """
    total = math.prod(shape)
    if placement == "random":
        return random.choice(total, count, replace=False)
    channels, *kernel = shape
    centre = [(size - 1) / 2 for size in kernel]
    grid = np.meshgrid(*(np.arange(size) for size in kernel), indexing="ij")
    distance = np.sqrt(sum((axis - middle) ** 2 for axis, middle in zip(grid, centre, strict=True)))
    score = random.normal(0, 1.0, (channels, *([1] * len(kernel)))) - 0.7 * distance
    return np.argsort((score + random.normal(0, 0.3, shape)).ravel())[total - count :]


def text(table: Table) -> str:
    """The table as Markdown."""
    lines = [
        f"\n## pattern #{table.pattern}, {table.placement} columns, {table.biases} biases, {table.provider}, "
        f"{table.threads} thread{'s' if table.threads > 1 else ''}, batch {table.batch_size}\n",
        "| layer | lowering | dense ms | SSL ms | CSR ms | CSR product ms | SSL speedup | interval "
        "| limit | limit, dead inputs gone | paper | CSR speedup | CSR product speedup | SSL over CSR |",
        "| --- | --- |" + " ---: |" * 12,
    ]
    lines += [
        f"| {line.layer} | {line.lowering} | {line.dense_ms:.3f} | {line.ssl_ms:.3f} | {line.csr_ms:.3f} "
        f"| {line.csr_product_ms:.3f} | {line.ssl.value:.2f} | {line.ssl.low:.2f} to {line.ssl.high:.2f} "
        f"| {line.limit:.2f} | {line.limit_dead_inputs_gone:.2f} | {line.paper:.2f} "
        f"| {line.csr.value:.2f} | {line.csr_product.value:.2f} | {line.ssl.value / line.csr.value:.2f} |"
        for line in table.lines
    ]
    csr, products = (
        np.mean([getattr(line, kind).value for line in table.lines]) for kind in ("csr", "csr_product")
    )
    lines.append(
        f"| mean | | | | | | **{table.mean.value:.2f}** | {table.mean.low:.2f} to {table.mean.high:.2f} "
        f"| {table.mean_limit:.2f} | {table.mean_limit_dead_inputs_gone:.2f} | {table.mean_paper:.2f} "
        f"| {csr:.2f} | {products:.2f} "
        f"| {table.mean.value / csr:.2f} |"
    )
    lines.append(
        f"\nThe five convolutions in place, with pooling and norms between: {table.whole.value:.2f}x "
        f"({table.whole.low:.2f} to {table.whole.high:.2f}); largest relative difference of the output "
        f"{'not a number' if table.difference is None else f'{table.difference:.1e}'}."
    )
    return "\n".join(lines)


def _line(
    layer: str,
    rows: Mapping[tuple[str | None, str, Kind], Row],
    decisions: Sequence[Decision],
    limits: Limits,
    paper: float,
) -> Line:
    kinds: tuple[tuple[str, Kind], ...] = (
        *(("model 0", "onnx"), ("model 1", "onnx")),
        *(("model 1", "csr"), ("model 1", "csr product")),
    )
    dense, ssl, csr, product_alone = (rows[layer, label, kind] for label, kind in kinds)
    return Line(
        layer=layer,
        lowering=chosen_forms(decisions, layer),
        dense_ms=dense.latency.median_ms,
        ssl_ms=ssl.latency.median_ms,
        csr_ms=csr.latency.median_ms,
        csr_product_ms=product_alone.latency.median_ms,
        ssl=_speedup(ssl),
        csr=_speedup(csr),
        csr_product=_speedup(product_alone),
        limit=limits.own,
        limit_dead_inputs_gone=limits.dead_inputs_gone,
        paper=paper,
    )


def chosen_forms(decisions: Sequence[Decision], layer: str) -> str:
    """All that was done to a layer, such as filters dropped and then a form for its columns."""
    chosen = [item.chosen for item in decisions if item.layer == layer and item.chosen != DENSE]
    return " + ".join(chosen) or DENSE


def _speedup(row: Row) -> Ratio:
    if row.ratio is None:
        raise ValueError(f"{row.subject} is the base")
    return row.ratio


def _whole(comparison: Comparison) -> Ratio:
    return next(row.ratio for row in comparison.rows if row.layer is None and row.ratio is not None)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pattern", type=int, nargs="+", choices=(2, 5), default=[2, 5])
    parser.add_argument(
        "--placement", nargs="+", choices=("random", "clustered"), default=["random", "clustered"]
    )
    parser.add_argument(
        "--biases",
        choices=get_args(Biases),
        default="zero",
        help="zero, as regularize leaves those of dead filters; live: no filter of the layer above is dead",
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--providers", nargs="+", choices=("cpu", "cuda"), default=["cpu"])
    parser.add_argument("--budget", type=float, default=1.0, help="seconds of measurement for one layer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
