"""What a residual block whose branch is zero leaves behind: nodes of the `.pt2` and the ONNX, and latency.

ResNet-20 with the last norm of chosen blocks' branches at zero (weight and shift), as depth sparsity leaves
them; pruned at threshold 0, exported dense, and timed against the ONNX of the whole network.

    python benchmarks/removed_block.py [--arch resnet20] [--blocks layer1.1,layer2.2] [--batch 1] [--budget 5]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import onnx
import torch

import sslcli
from sslcli.lowering import export_onnx
from sslcli.options.bench import BenchOptions


def main() -> int:
    asked = arguments()
    torch.manual_seed(0)
    model, example = sslcli.load(f"arch:{asked.arch}")
    blocks = asked.blocks.split(",")
    with torch.no_grad():
        for block in blocks:
            for parameter in model.get_submodule(f"{block}.bn2").parameters():
                parameter.zero_()
            model.get_submodule(f"{block}.conv2").weight.zero_()
    result = sslcli.prune(model, example, threshold=0.0)
    with tempfile.TemporaryDirectory() as folder:
        whole, small = (files(Path(folder), name, net, example) for name, net in named(model, result.model))
        options = BenchOptions.model_validate(
            {"threads": asked.threads, "batch_size": asked.batch, "budget": asked.budget, "layers": None}
        )
        comparison = sslcli.bench(whole[1], [small[1]], options)
        rows = [row for row in comparison.rows if row.layer is None]
        ratio = next(row.ratio for row in rows if row.ratio is not None)
        found = {
            "network": asked.arch,
            "blocks": blocks,
            "batch": asked.batch,
            "threads": asked.threads,
            "max_abs_error": result.report.max_abs_error,
            "pt2_nodes": [pt2_nodes(whole[0]), pt2_nodes(small[0])],
            "onnx_nodes": [len(onnx.load(path).graph.node) for path in (whole[1], small[1])],
            "convolutions": [convolutions(path) for path in (whole[1], small[1])],
            "macs_left": round(result.report.macs_after / result.report.macs_before, 4),
            "latency_ms": [round(row.latency.median_ms, 4) for row in rows],
            "speedup": round(ratio.value, 3),
            "interval_95": [round(ratio.low, 3), round(ratio.high, 3)],
        }
    print(json.dumps(found))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="resnet20")
    parser.add_argument("--blocks", default="layer1.1,layer2.2,layer3.1", help="modules, by commas")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=5.0, help="seconds of timing")
    return parser.parse_args()


def named(whole: torch.nn.Module, small: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    return [("whole", whole), ("small", small)]


def files(
    folder: Path, name: str, net: torch.nn.Module, example: tuple[torch.Tensor, ...]
) -> tuple[Path, Path]:
    """The network as `.pt2` and as ONNX."""
    program, graph = folder / f"{name}.pt2", folder / f"{name}.onnx"
    sslcli.save(net, program, example=example)
    onnx.save(export_onnx(net, example), graph)
    return program, graph


def pt2_nodes(path: Path) -> int:
    """Operations of an exported program, without its inputs, weights and outputs."""
    return sum(node.op == "call_function" for node in torch.export.load(path).graph.nodes)


def convolutions(path: Path) -> int:
    return sum(node.op_type == "Conv" for node in onnx.load(path).graph.node)


if __name__ == "__main__":
    raise SystemExit(main())
