#!/usr/bin/env python3
"""Do two runs of one comparison agree, and does a gate ever fail on noise?

``pairs`` lowers networks with zeros at random places (60 % of rows and columns), benches each against its
dense form twice with the default budget, and prints every ratio more than 3 % apart with both intervals.
``same`` benches models against themselves a hundred times for 0.6 s each and counts how often
``--fail-under 0.95`` would have ended a build.

    python benchmarks/agreement.py pairs
    python benchmarks/agreement.py same
"""

from __future__ import annotations

import argparse
import itertools

from never_slower import sparse_network

from sslcli.bench import RunSettings, compare, require_gate
from sslcli.bench.results import Comparison
from sslcli.bench.statistics import Ratio
from sslcli.errors import GateError
from sslcli.lowering import lower

NETWORKS = ("lenet", "convnet", "caffenet", "resnet20")
SMALL = ("lenet", "resnet20")
_CLOSE = 0.03
_FLOOR = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("pairs", "same"))
    parser.add_argument("--count", type=int, default=100, help="comparisons of a model with itself")
    arguments = parser.parse_args()
    if arguments.what == "pairs":
        pairs()
    else:
        same(arguments.count)


def pairs() -> None:
    """Two runs of each comparison, one after the other for all networks, so that minutes lie between."""
    models = {name: _models(name) for name in NETWORKS}
    runs = [{name: _ratios(_compared(*models[name])) for name in NETWORKS} for _ in range(2)]
    far = apart = count = 0
    for name in NETWORKS:
        first, second = (run[name] for run in runs)
        for layer, one in first.items():
            other = second[layer]
            count += 1
            if abs(one.value / other.value - 1) > _CLOSE:
                meets = one.low <= other.high and other.low <= one.high
                far, apart = far + 1, apart + (not meets)
                print(f"{name} {layer}: {_words(one)}, then {_words(other)}{'' if meets else ', APART'}")
    print(f"{count} ratios, {far} more than 3 % apart, {apart} of them with intervals that do not meet")


def same(count: int) -> None:
    """Models against themselves."""
    failed, values = 0, []
    models = [_models(name)[1] for name in SMALL]
    for number, model in zip(range(count), itertools.cycle(models), strict=False):
        found = compare(model, [model], batch_size=1, budget_s=0.6, layers=None, seed=number)
        ratio = found.rows[1].ratio
        assert ratio is not None
        values.append(ratio.value)
        try:
            require_gate(found, _FLOOR)
        except GateError:
            failed += 1
    print(f"{count} comparisons, {failed} failed; estimates from {min(values):.3f} to {max(values):.3f}")


def _models(name: str) -> tuple[bytes, bytes]:
    dense = sparse_network(name, "mixed", 0.6, 0)
    lowered = lower(dense, settings=RunSettings(budget_s=0.3)).model
    return dense.SerializeToString(), lowered.SerializeToString()


def _compared(dense: bytes, lowered: bytes) -> Comparison:
    return compare(dense, [lowered], batch_size=1)


def _ratios(comparison: Comparison) -> dict[str, Ratio]:
    return {row.layer or "whole": row.ratio for row in comparison.rows if row.ratio is not None}


def _words(ratio: Ratio) -> str:
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


if __name__ == "__main__":
    main()
