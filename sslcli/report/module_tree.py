"""Layers in the order and nesting of the modules that hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Layer = Mapping[str, Any]


@dataclass
class _Module:
    inside: dict[str, _Module] = field(default_factory=dict)
    layer: Layer | None = None

    def macs(self) -> float:
        own = float(self.layer["macs"]) if self.layer is not None else 0.0
        return own + sum(module.macs() for module in self.inside.values())


def module_rows(layers: Sequence[Layer]) -> Iterator[tuple[str, Layer | None, float]]:
    """A line per module: its name behind the branches that lead to it, its layer, the MACs in it.

    A module that holds nothing but one other shares its line.
    """
    top = _Module()
    for layer in layers:
        module = top
        for part in str(layer["name"]).split("."):
            module = module.inside.setdefault(part, _Module())
        module.layer = layer
    for name, module in top.inside.items():
        yield from _lines(name, module, "", "")


def _lines(name: str, module: _Module, branch: str, below: str) -> Iterator[tuple[str, Layer | None, float]]:
    while module.layer is None and len(module.inside) == 1:
        inner, module = next(iter(module.inside.items()))
        name = f"{name}.{inner}"
    yield branch + name, module.layer, module.macs()
    last = len(module.inside) - 1
    for index, (inner, child) in enumerate(module.inside.items()):
        fork, bar = ("└── ", "    ") if index == last else ("├── ", "│   ")
        yield from _lines(inner, child, below + fork, below + bar)
