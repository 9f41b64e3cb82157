"""The network as a graph: its layers in order, what joins them, and what is left of each.

Boxes stand below one another in the order of execution; a connection that passes others by runs in a lane
beside them, as in the pictures of version histories.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sslcli.report.numbers import count, per_cent

if TYPE_CHECKING:
    from sslcli.graph.program import Program

Json = Mapping[str, Any]
MOST_BOXES = 400
ROW, BOX, LANE, WIDTH = 34, 26, 13, 424  # CSS pixels
SMALLEST = 0.8  # of that size on a phone, where 13 pixels of text are then 10
_SIGNS = {
    "add": "+",
    "sub": "\u2212",
    "mul": "\u00d7",
    "div": "\u00f7",
    "cat": "concatenate",
    "stack": "stack",
}
_SIGNS |= {"concat": "concatenate", "scaled_dot_product_attention": "attention"}
_LAYERS = ("conv", "conv_transpose", "linear", "addmm", "matmul", "embedding")


@dataclass(frozen=True)
class Part:
    """One box: ``inputs`` are the numbers of the boxes that it reads; ``layer`` names its weight's layer."""

    name: str
    inputs: tuple[int, ...]
    layer: str | None = None
    filters: int = 0


@dataclass(frozen=True)
class Box:
    """One box as it is drawn; ``share`` of its arithmetic is left, None for what has none."""

    y: int
    name: str
    words: str
    share: float | None
    gone: bool


@dataclass(frozen=True)
class Drawing:
    """What the template draws; ``arcs`` are (x, top, bottom) in the lanes, ``steps`` straight lines.

    ``box`` is the width of a box, ``narrowest`` that of the picture on a phone.
    """

    width: int
    narrowest: int
    box: int
    height: int
    left: int
    boxes: Sequence[Box]
    steps: Sequence[tuple[int, int]]
    arcs: Sequence[tuple[int, int, int]]
    alt: str


def parts_of(program: Program) -> list[Part]:
    """The layers of a traced network and the places where values meet, in the order of execution.

    What has one input and no weight of its own (activations, norms, pools, reshapes) is not told apart.
    """
    from sslcli.graph.ops import KIND, op_name

    weights = dict(program.exported.graph_signature.inputs_to_parameters)
    parts: list[Part] = []
    known: dict[Any, tuple[int, ...]] = {}

    def add(part: Part) -> tuple[int, ...]:
        parts.append(part)
        return (len(parts) - 1,)

    inputs = set(program.inputs)
    for node in program.graph.nodes:
        before = tuple(
            dict.fromkeys(number for read in node.all_input_nodes for number in known.get(read, ()))
        )
        if node in inputs:
            shape = " x ".join(str(size) for size in node.meta["val"].shape[1:])
            known[node] = add(Part(f"input, {shape}" if shape else "input", ()))
        elif node.op == "output":
            add(Part("output", before))
        elif node.op == "call_function" and before and not _is_number(node):
            op = op_name(node)
            read = next((weights[r.name] for r in node.all_input_nodes if r.name in weights), None)
            if read is not None and KIND.get(op) in _LAYERS:
                size = int(program.weights()[read].shape[0])
                known[node] = add(
                    Part(read.removesuffix(".weight"), before, read.removesuffix(".weight"), size)
                )
            else:
                known[node] = add(Part(_SIGNS.get(op, op), before)) if len(before) > 1 else before
    return parts


def drawing(parts: Sequence[Part], before: Iterable[Json], after: Iterable[Json]) -> Drawing:
    """Lay out ``parts``.

    Args:
        parts: of the network as it was.
        before: layers of the first model (name, filters, macs).
        after: layers of the last one (name, filters, macs_packed).
    """
    was, left = ({str(layer["name"]): layer for layer in layers} for layers in (before, after))
    boxes = [_box(number, part, was, left) for number, part in enumerate(parts)]
    skips = sorted(
        (
            (source, number)
            for number, part in enumerate(parts)
            for source in part.inputs
            if number - source > 1
        ),
        key=lambda edge: (edge[1] - edge[0], edge),
    )
    lanes = _lanes(skips)
    margin = LANE * (1 + max(lanes.values(), default=-1)) + 6
    steps = [
        (_middle(source) + BOX // 2, _middle(number) - BOX // 2)
        for number, part in enumerate(parts)
        for source in part.inputs
        if number - source == 1
    ]
    arcs = [
        (margin - LANE * (lane + 1), _middle(top), _middle(bottom)) for (top, bottom), lane in lanes.items()
    ]
    return Drawing(
        width=margin + WIDTH + 2,
        narrowest=round(SMALLEST * (margin + WIDTH + 2)),
        box=WIDTH,
        height=ROW * len(parts) + 4,
        left=margin,
        boxes=boxes,
        steps=steps,
        arcs=arcs,
        alt=_alt(boxes),
    )


def _box(number: int, part: Part, was: Mapping[str, Json], left: Mapping[str, Json]) -> Box:
    y = ROW * number + 4
    if part.layer is None:
        return Box(y, part.name, "", None, gone=False)
    first, last = was.get(part.layer), left.get(part.layer)
    if last is None:
        return Box(y, part.name, "gone" if left else "", 0.0 if left else None, gone=bool(left))
    whole = int(first["filters"]) if first else part.filters
    macs = int(first["macs"]) if first else int(last["macs"])
    share = int(last["macs_packed"]) / max(macs, 1)
    filters = f"{last['filters']} of {whole} filters" if last["filters"] != whole else f"{whole} filters"
    return Box(
        y,
        part.name,
        f"{filters}, {per_cent(min(share, 1.0))} of {count(macs)} MACs",
        min(share, 1.0),
        gone=False,
    )


def _lanes(edges: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """The innermost lane for each edge that no other edge occupies there; short ones first."""
    taken: list[list[tuple[int, int]]] = []
    lanes: dict[tuple[int, int], int] = {}
    for top, bottom in edges:
        free = (lane for lane, edges in enumerate(taken) if all(bottom <= a or b <= top for a, b in edges))
        lane = next(free, len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append((top, bottom))
        lanes[top, bottom] = lane
    return lanes


def _middle(number: int) -> int:
    return ROW * number + 4 + BOX // 2


def _alt(boxes: Sequence[Box]) -> str:
    said = [f"{box.name}: {box.words}" for box in boxes if box.words]
    return f"The network, {len(boxes)} parts in order. " + "; ".join(said)


def _is_number(node: Any) -> bool:
    """Whether it is a size, which is read from a value but carries none of it."""
    import torch

    return isinstance(node.meta.get("val"), torch.SymInt | int)
