"""What the controller of a target says that filters are worth, beside what the loss misses without them.

Of each group set in turn the least worthy quarter is put to zero (and put back): the loss gained, over the
worth lost, should be much the same for every set, or the controller takes its budget from the wrong ones.
``shared_over_alone``: this quotient of sets that lie in several layers, over that of all others together.

    python benchmarks/worth.py MODEL [--arch NAME] [--mean M,M,M --std S,S,S] [--share 0.25] [--samples 256]
        [--threads 1] [--plain]

MODEL is one for CIFAR-10, found under SSLCLI_DATA_ROOT, with sets of one layer and of several.

``--plain`` adds up squares in every set, as if each layer were missed by itself.
"""

from __future__ import annotations

import argparse
import json
import sys

import torch
from torch import Tensor, nn

import sslcli
from sslcli.data.catalogue import load_data
from sslcli.graph.groups import GroupSet, find_groups
from sslcli.graph.normalise import normalise
from sslcli.graph.readers import depthwise_weights
from sslcli.graph.slots import analyse
from sslcli.graph.trace import trace
from sslcli.sparsity.bound import bind, spread
from sslcli.sparsity.penalty import WeightedSet
from sslcli.targeting import controller as of_targets
from sslcli.targeting.budget import Budget
from sslcli.targeting.left import watcher
from sslcli.targeting.target import Target

BATCH = 64


def main() -> int:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    if asked.plain:
        of_targets._COLLECTED = ()
    model = sslcli.load(asked.model, arch=asked.arch).model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0
    data = load_data("cifar10", mean=asked.mean, std=asked.std, augment=False)
    inputs, targets = data.train.batch(torch.arange(asked.samples))
    structure = analyse(normalise(trace(model, (inputs[:2],))))
    sets = find_groups(structure, "filter")
    controller = of_targets.TargetController(
        [WeightedSet(found, 1.0) for found in sets], Target({"macs": 0.5}, None, 1.0),
        Budget(sets, watcher(structure)), 60, depthwise_weights(structure),
    )  # fmt: skip
    parameters = dict(model.named_parameters())
    for first in range(0, asked.samples, BATCH):
        model.zero_grad()
        loss(model, inputs[first : first + BATCH], targets[first : first + BATCH]).backward()
        controller.look(parameters)
    with torch.no_grad():
        whole = float(loss(model, inputs, targets))
    rows = []
    for found, note in zip(sets, controller.notes, strict=True):
        chosen = note.worth.argsort()[: max(1, round(asked.share * found.count))]
        worth = float(note.worth[chosen].sum())
        with torch.no_grad():
            gained = without(model, found, chosen, inputs, targets) - whole
        rows.append({"layers": len(found.views), "gained": gained, "worth": worth, "label": found.label})
    alone = [row for row in rows if row["layers"] == 1]
    if not alone or len(alone) == len(rows):
        print("the network has no sets of one layer, or none of several, to compare", file=sys.stderr)
        return 2
    quotient = sum(row["gained"] for row in alone) / sum(row["worth"] for row in alone)
    shared = {row["label"]: row["gained"] / row["worth"] / quotient for row in rows if row["layers"] > 1}
    print(json.dumps({"rows": rows, "alone": quotient, "shared_over_alone": shared}))
    return 0


def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(inputs), targets)


def without(model: nn.Module, found: GroupSet, chosen: Tensor, inputs: Tensor, targets: Tensor) -> float:
    """The loss while the chosen groups of a set are zero."""
    parameters = dict(model.named_parameters())
    kept = {view.name: parameters[view.name].detach().clone() for view in found.views}
    factors = torch.ones(found.count)
    factors[chosen] = 0.0
    for values, each in spread(bind(parameters, found), factors, 1.0):
        values.mul_(each)
    value = float(loss(model, inputs, targets))
    for name, weight in kept.items():
        parameters[name].copy_(weight)
    return value


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--arch")
    parser.add_argument("--mean", type=numbers)
    parser.add_argument("--std", type=numbers)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
