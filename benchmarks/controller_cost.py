"""What the controller of a target costs, as a share of the training time.

A run to a target is timed whole, and in it every call of the controller; process time, so that other work of
the machine does not count. A latency target's export of the dense model, its table and its measurements are
counted too.

    python benchmarks/controller_cost.py [--arch lenet] [--data mnist] [--target macs=0.25] [--channels-last]
        [--structure filter --structure shape] [--fail-over 0.05]
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import sslcli
from sslcli.data import load_data
from sslcli.errors import TargetError
from sslcli.options.training import RegularizeOptions
from sslcli.targeting import latency, regularize
from sslcli.targeting.controller import TargetController

_CALLS: dict[Any, tuple[str, ...]] = {
    TargetController: ("look", "adjust", "choose", "lacks"),
    latency.Latency: ("exported", "measure"),
    latency: ("measure_table",),
}


def main() -> int:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    model, example = sslcli.load(f"arch:{asked.arch}")
    data = load_data(asked.data, root=asked.data_root)
    name, _, fraction = asked.target.partition("=")
    options = RegularizeOptions.model_validate(
        {
            "epochs": asked.epochs,
            "channels_last": asked.channels_last,
            "finetune_epochs": asked.finetune_epochs,
            "target": {name: float(fraction)},
            "structures": [{"name": name, "strength": 1.0} for name in asked.structure],
        }
    )
    spent = watch_calls()
    started = time.process_time()
    try:
        regularize(model, example, data, options=options, batch_size=asked.batch, seed=asked.seed)
    except TargetError as error:  # the cost is the same
        print(error.what, file=sys.stderr)
    whole = time.process_time() - started
    share = sum(spent.values()) / whole
    result = {
        "network": asked.arch,
        "data": asked.data,
        "target": asked.target,
        "structures": asked.structure,
        "epochs": asked.epochs + asked.finetune_epochs,
        "batch": asked.batch,
        "seed": asked.seed,
        "channels_last": asked.channels_last,
        "threads": asked.threads,
        "seconds": round(whole, 2),
        "controller_seconds": {call: round(seconds, 3) for call, seconds in spent.items()},
        "share": round(share, 4),
    }
    print(json.dumps(result))
    if asked.fail_over is not None and share > asked.fail_over:
        print(f"the share lies above {asked.fail_over}", file=sys.stderr)
        return 7
    return 0


def watch_calls() -> dict[str, float]:
    """Seconds by call, filled in from now on; a call within another counts with the outer one alone."""
    spent: dict[str, float] = {}
    within: list[str] = []
    for owner, names in _CALLS.items():
        for name in names:
            label = f"{owner.__name__.rpartition('.')[2]}.{name}"
            spent[label] = 0.0
            held = vars(owner)[name]
            if isinstance(held, functools.cached_property):
                held.func = _timed(held.func, label, spent, within)
            else:
                setattr(owner, name, _timed(held, label, spent, within))
    return spent


def _timed(
    call: Callable[..., Any], label: str, spent: dict[str, float], within: list[str]
) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapped(*given: Any, **named: Any) -> Any:
        if within:
            return call(*given, **named)
        within.append(label)
        started = time.process_time()
        try:
            return call(*given, **named)
        finally:
            spent[label] += time.process_time() - started
            within.pop()

    return wrapped


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="lenet")
    parser.add_argument("--data", default="mnist-5k")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--target", default="macs=0.25")
    parser.add_argument("--structure", action="append", default=[])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--finetune-epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--fail-over", type=float, default=None, help="exit 7 if the share lies above")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
