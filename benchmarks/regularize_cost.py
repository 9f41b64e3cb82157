"""What SSL (filter + shape) costs per training step of ResNet-18, over plain training.

Both take the same batches in turn, one step each, so that whatever else the machine does hits both alike.

    python benchmarks/regularize_cost.py [--size 32] [--seconds 60] [--threads 2] [--fail-over 1.15]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))  # this folder is no package
from resnet18 import ResNet18  # type: ignore[import-not-found]

from sslcli.graph.groups import find_groups
from sslcli.graph.slots import analyse
from sslcli.graph.trace import trace
from sslcli.options.training import RegularizeOptions, TrainOptions
from sslcli.sparsity.penalty import WeightedSet
from sslcli.training.step import Stepper
from sslcli.training.task import classification

# Small enough that nothing dies within a measurement: the cost is then that of a dense network.
_STRENGTH = 1e-6


def main() -> int:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    inputs = torch.randn(asked.batch, 3, asked.size, asked.size)
    targets = torch.randint(0, 1000, (asked.batch,))
    plain, sparse = steppers(inputs[:2])
    pairs = measure(plain, sparse, inputs, targets, asked.seconds)
    ratio, low, high = interval([ssl / base for base, ssl in pairs])
    result = {
        "network": "resnet18",
        "batch": asked.batch,
        "size": asked.size,
        "threads": asked.threads,
        "steps": len(pairs),
        "plain_ms": round(1e3 * statistics.median(base for base, _ in pairs), 2),
        "ssl_ms": round(1e3 * statistics.median(ssl for _, ssl in pairs), 2),
        "ratio": round(ratio, 4),
        "interval_95": [round(low, 4), round(high, 4)],
    }
    print(json.dumps(result))
    if asked.fail_over is not None and low > asked.fail_over:
        print(f"the cost lies above {asked.fail_over}", file=sys.stderr)
        return 7
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32, help="height and width of the inputs")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--fail-over", type=float, default=None, help="exit 7 if the interval lies above")
    return parser.parse_args()


def steppers(example: torch.Tensor) -> tuple[Stepper, Stepper]:
    """One stepper without a penalty and one with filter and shape groups, of equal networks."""
    plain, sparse = ResNet18(), ResNet18()
    sparse.load_state_dict(plain.state_dict())
    structure = analyse(trace(sparse, (example,)))
    penalties = [
        WeightedSet(group_set, _STRENGTH)
        for kind in ("filter", "shape")
        for group_set in find_groups(structure, kind)
    ]
    cpu, task = torch.device("cpu"), classification()
    base = Stepper(plain.train(), task, TrainOptions.model_validate({}), cpu)
    ssl = Stepper(sparse.train(), task, RegularizeOptions.model_validate({}), cpu)
    ssl.penalise(penalties)
    return base, ssl


def measure(
    plain: Stepper, sparse: Stepper, inputs: torch.Tensor, targets: torch.Tensor, seconds: float
) -> list[tuple[float, float]]:
    """Pairs of seconds per step; which of a pair goes first alternates."""
    for stepper in (plain, sparse) * 3:
        timed(stepper, inputs, targets)
    pairs, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(pairs) < 5:
        if len(pairs) % 2:
            ssl = timed(sparse, inputs, targets)
            pairs.append((timed(plain, inputs, targets), ssl))
        else:
            base = timed(plain, inputs, targets)
            pairs.append((base, timed(sparse, inputs, targets)))
    return pairs


def timed(stepper: Stepper, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    start = time.perf_counter()
    stepper.step(inputs, targets, lr=1e-3)
    return time.perf_counter() - start


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Median and its 95 % bootstrap interval."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(1000))
    return statistics.median(ratios), medians[25], medians[974]


if __name__ == "__main__":
    raise SystemExit(main())
