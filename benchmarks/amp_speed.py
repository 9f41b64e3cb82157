"""How much faster ``--amp bf16`` trains a network of ours than full precision, on this CPU.

Both take the same batches in turn, one step each, in channels-last layout.

    python benchmarks/amp_speed.py [--arch resnet20] [--batch 128] [--seconds 60] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))  # this folder is no package
from regularize_cost import interval, measure  # type: ignore[import-not-found]

import sslcli
from sslcli.options.training import TrainOptions
from sslcli.training.step import Stepper, amp_dtype
from sslcli.training.task import classification


def main() -> int:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    inputs, targets = torch.randn(asked.batch, 3, 32, 32), torch.randint(0, 10, (asked.batch,))
    plain, mixed = (stepper(asked.arch, amp) for amp in ("off", "bf16"))
    pairs = measure(plain, mixed, inputs, targets, asked.seconds)
    ratio, low, high = interval([base / other for base, other in pairs])
    plain_s, mixed_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    result = {
        "network": asked.arch,
        "batch": asked.batch,
        "threads": asked.threads,
        "steps": len(pairs),
        "auto": str(amp_dtype("auto", torch.device("cpu"))),
        "plain_images_per_s": round(asked.batch / plain_s),
        "bf16_images_per_s": round(asked.batch / mixed_s),
        "speedup": round(ratio, 3),
        "interval_95": [round(low, 3), round(high, 3)],
    }
    print(json.dumps(result))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    return parser.parse_args()


def stepper(arch: str, amp: str) -> Stepper:
    """A stepper of a fresh network in training mode."""
    model, _ = sslcli.load(f"arch:{arch}")
    options = TrainOptions.model_validate({"amp": amp, "channels_last": True})
    return Stepper(model.train(), classification(), options, torch.device("cpu"))


if __name__ == "__main__":
    raise SystemExit(main())
