"""The paper's AlexNet table, measured here: dense, SSL and CSR side by side, layer by layer.

CaffeNet's five convolutions get the row and column sparsity of the paper's results #2 and #5, with the live
columns at random places or clustered. Each model is exported, lowered for the setting by measured selection
and compared with its dense form, as ``sslcli export`` and ``sslcli bench --unstructured`` do. Unlike the
paper, which timed the matrix product alone, whole layers are timed: gather, shifts, layout changes and bias.

    python benchmarks/alexnet_table.py --json table.json
    python benchmarks/alexnet_table.py --pattern 2 --placement random --batch 1 --threads 1
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from sslcli.bench import Comparison, RunSettings, compare
from sslcli.bench.host import this_host
from sslcli.bench.results import Kind, Row
from sslcli.bench.statistics import Ratio, mean_ratio
from sslcli.lowering import export_onnx
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
    paper: float


@dataclass(frozen=True)
class Table:
    """All layers at one setting."""

    pattern: int
    placement: str
    provider: Provider
    threads: int
    batch_size: int
    lines: tuple[Line, ...]
    mean: Ratio
    mean_limit: float
    mean_paper: float
    whole: Ratio
    difference: float | None


def main() -> None:
    arguments = _arguments()
    tables: list[Table] = []
    for pattern, placement in product(arguments.pattern, arguments.placement):
        dense, limits = sparse_caffenet(pattern, placement, arguments.seed)
        for provider, batch_size, threads in product(arguments.providers, arguments.batch, arguments.threads):
            settings = RunSettings(
                provider, threads=threads, batch_size=batch_size, budget_s=arguments.budget
            )
            table = measure(dense, limits, pattern, placement, settings)
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
    dense: bytes, limits: dict[str, float], pattern: int, placement: str, settings: RunSettings
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
        settings.provider,
        settings.threads,
        settings.batch_size or 1,
        lines,
        mean_ratio(pairs, rounds=[rows[layer, other, "onnx"].rounds for layer in LAYERS]),
        float(np.mean(list(limits.values()))),
        float(np.mean(list(paper.values()))),
        _whole(comparison),
        comparison.models[1].difference,
    )


def sparse_caffenet(pattern: int, placement: str, seed: int) -> tuple[bytes, dict[str, float]]:
    """CaffeNet's convolutional part with the paper's zeros, and each layer's arithmetic limit."""
    model = build("caffenet", seed=seed)
    model.fc6, model.fc7, model.fc8 = nn.Identity(), nn.Identity(), nn.Identity()
    random = np.random.default_rng(seed)
    limits = {}
    for layer in LAYERS:
        weight = model.get_parameter(f"{layer}.weight")
        live = live_groups(layer, weight.shape, pattern)
        mask = zero_pattern(weight.shape, live, placement, random)
        with torch.no_grad():
            weight.mul_(torch.from_numpy(mask))
        limits[layer] = weight.numel() / sum(rows * columns for rows, columns in live)
    return export_onnx(model.eval(), (torch.randn(1, *INPUT),)).SerializeToString(), limits


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
        f"\n## pattern #{table.pattern}, {table.placement} columns, {table.provider}, "
        f"{table.threads} thread{'s' if table.threads > 1 else ''}, batch {table.batch_size}\n",
        "| layer | lowering | dense ms | SSL ms | CSR ms | CSR product ms | SSL speedup | interval "
        "| limit | paper | CSR speedup | CSR product speedup | SSL over CSR |",
        "| --- | --- |" + " ---: |" * 11,
    ]
    lines += [
        f"| {line.layer} | {line.lowering} | {line.dense_ms:.3f} | {line.ssl_ms:.3f} | {line.csr_ms:.3f} "
        f"| {line.csr_product_ms:.3f} | {line.ssl.value:.2f} | {line.ssl.low:.2f} to {line.ssl.high:.2f} "
        f"| {line.limit:.2f} | {line.paper:.2f} | {line.csr.value:.2f} | {line.csr_product.value:.2f} "
        f"| {line.ssl.value / line.csr.value:.2f} |"
        for line in table.lines
    ]
    csr, products = (
        np.mean([getattr(line, kind).value for line in table.lines]) for kind in ("csr", "csr_product")
    )
    lines.append(
        f"| mean | | | | | | **{table.mean.value:.2f}** | {table.mean.low:.2f} to {table.mean.high:.2f} "
        f"| {table.mean_limit:.2f} | {table.mean_paper:.2f} | {csr:.2f} | {products:.2f} "
        f"| {table.mean.value / csr:.2f} |"
    )
    lines.append(
        f"\nThe five convolutions in place, with pooling and norms between: {table.whole.value:.2f}x "
        f"({table.whole.low:.2f} to {table.whole.high:.2f}); largest relative difference of the output "
        f"{table.difference:.1e}."
    )
    return "\n".join(lines)


def _line(
    layer: str,
    rows: Mapping[tuple[str | None, str, Kind], Row],
    decisions: Sequence[Decision],
    limit: float,
    paper: float,
) -> Line:
    kinds: tuple[tuple[str, Kind], ...] = (
        *(("model 0", "onnx"), ("model 1", "onnx")),
        *(("model 1", "csr"), ("model 1", "csr product")),
    )
    dense, ssl, csr, product_alone = (rows[layer, label, kind] for label, kind in kinds)
    return Line(
        layer=layer,
        lowering=next((item.chosen for item in decisions if item.layer == layer), "dense"),
        dense_ms=dense.latency.median_ms,
        ssl_ms=ssl.latency.median_ms,
        csr_ms=csr.latency.median_ms,
        csr_product_ms=product_alone.latency.median_ms,
        ssl=_speedup(ssl),
        csr=_speedup(csr),
        csr_product=_speedup(product_alone),
        limit=limit,
        paper=paper,
    )


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
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--providers", nargs="+", choices=("cpu", "cuda"), default=["cpu"])
    parser.add_argument("--budget", type=float, default=1.0, help="seconds of measurement for one layer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
