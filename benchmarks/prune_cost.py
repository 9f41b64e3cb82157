"""What it costs to trace a network, cut it to half its MACs and verify the result; beside Torch-Pruning.

Every measurement is a process of its own, so that its peak memory is its own; ours and theirs take turns.
Times are from the model in memory to the small model in memory (imports and building are left
out, for both). Ours includes the check of the result against the masked original, theirs has none.

    python benchmarks/prune_cost.py [resnet50 densenet201 chain:1000 residual:5000 ...] [--rounds 3]

Names are torchvision's (which must be installed for them); ``chain:N`` is N convolutions in a row,
``residual:N`` a residual network of about N graph nodes. Torch-Pruning is left out, and named as
absent, where ``torch_pruning`` is not installed. MAC figures are counted by torch on the result.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

NAMES = ["resnet50", "densenet201", "chain:1000", "residual:5000"]
# Torch-Pruning takes a ratio of channels, not a target: this one leaves about half of the MACs.
RATIO = 0.3


def main() -> int:
    asked = arguments()
    if asked.worker:
        print(json.dumps(work(asked.worker, asked.names[0], asked.threads)))
        return 0
    ways = ["sslcli"] + (["torch_pruning"] if importlib.util.find_spec("torch_pruning") else [])
    if len(ways) == 1:
        print("torch_pruning is not installed: only sslcli is measured", file=sys.stderr)
    print(f"{'network':16}{'way':16}{'seconds':>9}{'peak MB':>9}{'MACs left':>11}{'error':>10}")
    for name in asked.names:
        rows: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for _ in range(asked.rounds):
            for way in ways:
                rows[way].append(spawn(way, name, asked.threads))
        for way in ways:
            show(name, way, rows[way])
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", choices=["sslcli", "torch_pruning"], help=argparse.SUPPRESS)
    return parser.parse_args()


def spawn(way: str, name: str, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, name, "--worker", way, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip() or f"exit {done.returncode}").splitlines()[-1][:90]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def show(name: str, way: str, rows: list[dict[str, Any]]) -> None:
    failed = [row["failed"] for row in rows if "failed" in row]
    if failed:
        print(f"{name:16}{way:16}  {failed[0]}", flush=True)
        return
    seconds = statistics.median(row["seconds"] for row in rows)
    peak = max(row["peak_mb"] for row in rows)
    error = rows[0]["max_rel_error"]
    shown = "none made" if error is None else f"{error:.1e}"
    print(f"{name:16}{way:16}{seconds:9.1f}{peak:9.0f}{rows[0]['macs']:11.3f}{shown:>10}", flush=True)


def work(way: str, name: str, threads: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, example = build(name)
    whole = operations(model, example)
    if way == "sslcli":
        small, seconds, error = ours(model, example)
    else:
        small, seconds, error = theirs(model, example)
    return {
        "seconds": seconds,
        "max_rel_error": error,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "macs": operations(small, example) / whole,
    }


def ours(model: Any, example: Any) -> tuple[Any, float, float | None]:
    from sslcli.surgery.prune import prune

    start = time.perf_counter()
    result = prune(model, (example,), target={"macs": 0.5})
    return result.model, time.perf_counter() - start, result.report.max_rel_error


def theirs(model: Any, example: Any) -> tuple[Any, float, float | None]:
    import torch
    import torch_pruning  # type: ignore[import-not-found]

    outputs = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1:]
    start = time.perf_counter()
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=outputs,
    )
    pruner.step()
    return model, time.perf_counter() - start, None


def build(name: str) -> tuple[Any, Any]:
    import torch

    kind, _, size = name.partition(":")
    if kind == "chain":
        return chain(int(size)), torch.randn(2, 3, 16, 16)
    if kind == "residual":
        return residual(int(size)), torch.randn(2, 3, 16, 16)
    import torchvision  # type: ignore[import-not-found]

    return torchvision.models.get_model(name, weights=None).eval(), torch.randn(2, 3, 224, 224)


def chain(layers: int) -> Any:
    """A network of so many 3x3 convolutions with ReLU, and a linear layer."""
    from torch import nn

    parts: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1)]
    for _ in range(layers - 2):
        parts += [nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
    return settled(nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)))


def residual(nodes: int) -> Any:
    """Residual blocks (conv, norm, ReLU, conv, norm, sum, ReLU: seven nodes each) until so many nodes."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
            self.first, self.second = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.second(self.two(torch.relu(self.first(self.one(x))))))

    blocks = [Block(16) for _ in range(nodes // 7)]
    stem = nn.Conv2d(3, 16, 3, padding=1)
    return settled(
        nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
        shrink=0.1,
    )


def settled(model: Any, shrink: float = 1.0) -> Any:
    """Weights that keep signals of one size through a thousand layers; branches add a tenth of theirs.

    Without, values sink to denormal numbers, and these are what would be timed.
    """
    import torch
    from torch import nn

    with torch.no_grad():
        for name, part in model.named_modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
                if part.bias is not None:
                    part.bias.normal_(0, 0.1)
            elif name.endswith("second"):
                part.weight.fill_(shrink)
    return model.eval()


def operations(model: Any, example: Any) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example)
    return int(counter.get_total_flops())


if __name__ == "__main__":
    raise SystemExit(main())
