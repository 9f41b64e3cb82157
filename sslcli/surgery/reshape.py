"""Shape arguments after a cut: the sizes, indices and amounts that ops carry as plain numbers.

One function an op (``REWRITES``), called with the node of the new graph and the cut; nodes none of whose axes
change are not touched. A function returns the node that stands for the old one from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from sslcli.errors import GraphError
from sslcli.graph.ops import bind, op_name, shape_of, where
from sslcli.graph.program import add_weight
from sslcli.graph.slots import run_op
from sslcli.surgery.cut import Cut, Kept

aten = torch.ops.aten

_FAULT = "please report the model; it is a fault of sslcli"


class Rewriter:
    """A graph that is being edited, beside the original nodes and the cut that speaks of them."""

    def __init__(self, found: Cut) -> None:
        self.found = found
        self.program = found.structure.program
        self.graph = self.program.copy_graph()
        old = found.structure.nodes
        self.new: dict[fx.Node, fx.Node] = dict(zip(old, self.graph.nodes, strict=True))
        self.weights: dict[str, Tensor] = {}

    def kept(self, node: fx.Node) -> Kept:
        """Kept indices of an original node."""
        return self.found.of(node)

    def constant(self, name: str, value: Tensor, kind: InputKind = InputKind.BUFFER) -> fx.Node:
        """A new weight with a name of its own."""
        taken = set(self.weights) | set(self.program.weights())
        free, number = name, 0
        while free in taken:
            number += 1
            free = f"{name}_{number}"
        self.weights[free] = value
        return add_weight(self.graph, free, value, kind=kind)

    def replace(self, old: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
        """Put another call in the place of an original node's copy."""
        here = self.new[old]
        with self.graph.inserting_before(here):
            node = self.graph.call_function(target, args)
        node.meta = {key: value for key, value in here.meta.items() if key != "val"}
        node.meta["val"] = here.meta.get("val")
        here.replace_all_uses_with(node)
        self.graph.erase_node(here)
        self.new[old] = node
        return node


def _sizes(rewriter: Rewriter, old: fx.Node, sizes: Sequence[Any], offset: int = 0) -> list[Any]:
    """The size arguments of a view for the kept part of its result; symbolic ones where they hold."""
    kept = rewriter.kept(old)
    result: list[Any] = []
    for position, size in enumerate(sizes):
        axis = position + offset
        if axis not in kept:
            result.append(rewriter.new[size] if isinstance(size, fx.Node) else size)
        elif isinstance(size, int) and size != -1:
            result.append(len(kept[axis]))
        else:
            result.append(-1)
    unknown = [position for position, size in enumerate(result) if isinstance(size, int) and size == -1]
    for position in unknown[1:] if len(unknown) > 1 else []:
        size = old.meta["val"].shape[position + offset]
        if not isinstance(size, int):
            raise GraphError(f"{where(old)}: two sizes that depend on the batch change at once", _FAULT)
        result[position] = len(kept[position + offset]) if position + offset in kept else size
    return result


def view(rewriter: Rewriter, old: fx.Node) -> None:
    """New sizes for view and reshape, -1 for one that carries the batch."""
    rewriter.new[old].update_arg(
        1, _sizes(rewriter, old, bind(old)["size" if "size" in bind(old) else "shape"])
    )


def unflatten(rewriter: Rewriter, old: fx.Node) -> None:
    """The sizes of the axes that one is split into."""
    arguments = bind(old)
    dim = arguments["dim"] % len(shape_of(arguments["self"]))
    rewriter.new[old].update_arg(2, _sizes(rewriter, old, arguments["sizes"], dim))


def expand(rewriter: Rewriter, old: fx.Node) -> None:
    """-1 where the operand already has the size."""
    arguments = bind(old)
    source, kept = arguments["self"], rewriter.kept(old)
    extra = len(arguments["size"]) - len(shape_of(source))
    sizes: list[Any] = []
    for axis, size in enumerate(arguments["size"]):
        same = axis >= extra and shape_of(source)[axis - extra] == shape_of(old)[axis]
        if axis in kept:
            sizes.append(-1 if same else len(kept[axis]))
        else:
            sizes.append(rewriter.new[size] if isinstance(size, fx.Node) else size)
    rewriter.new[old].update_arg(1, sizes)


def split(rewriter: Rewriter, old: fx.Node) -> None:
    """split, chunk and the like: the sizes of the pieces, written out."""
    arguments = bind(old)
    source = arguments["self"]
    dim = arguments["dim"] % len(shape_of(source))
    if dim not in rewriter.kept(source):
        return
    sizes = [rewriter.found.size(old, position)[dim] for position in range(len(old.meta["val"]))]
    rewriter.replace(old, aten.split_with_sizes.default, (rewriter.new[source], sizes, dim))


def unbind(rewriter: Rewriter, old: fx.Node) -> None:
    """The pieces that are left have other numbers."""
    arguments = bind(old)
    source = arguments["self"]
    kept = rewriter.kept(source).get(arguments["dim"] % len(shape_of(source)))
    if kept is None:
        return
    places = {int(place): position for position, place in enumerate(kept)}
    for user in old.users:
        position = places.get(user.args[1])  # type: ignore[arg-type]
        if position is not None:
            rewriter.new[user].update_arg(1, position)


def select(rewriter: Rewriter, old: fx.Node) -> None:
    """The index among those that are left."""
    arguments = bind(old)
    source = arguments["self"]
    dim = arguments["dim"] % len(shape_of(source))
    kept = rewriter.kept(source).get(dim)
    if kept is None:
        return
    index = int(arguments["index"]) % shape_of(source)[dim]
    places = torch.nonzero(kept == index).reshape(-1)
    if len(places) == 0:
        raise GraphError(f"{where(old)}: the selected place was cut although it is needed", _FAULT)
    rewriter.new[old].update_arg(2, int(places[0]))


def slice_(rewriter: Rewriter, old: fx.Node) -> None:
    """A slice of what is left, as a slice where it is one and as an index otherwise."""
    arguments = bind(old)
    source = arguments["self"]
    dim = arguments["dim"] % len(shape_of(source))
    kept = rewriter.kept(source).get(dim)
    if kept is None:
        return
    length = shape_of(source)[dim]
    if op_name(old) == "narrow":
        places = torch.arange(length)[arguments["start"] : arguments["start"] + arguments["length"]]
    else:
        bounds = slice(arguments["start"], arguments["end"], arguments["step"])
        places = torch.tensor(range(length)[bounds], dtype=torch.int64)
    chosen = torch.nonzero(torch.isin(kept, places)).reshape(-1)
    new = rewriter.new[source]
    if len(chosen) and int(chosen[-1]) - int(chosen[0]) + 1 == len(chosen):
        start, stop = int(chosen[0]), int(chosen[-1]) + 1
        rewriter.replace(old, aten.slice.Tensor, (new, dim, start, stop))
    else:
        index = rewriter.constant(f"{old.name}_index", chosen)
        rewriter.replace(old, aten.index_select.default, (new, dim, index))


def scatter(rewriter: Rewriter, old: fx.Node) -> None:
    """slice_scatter and select_scatter: the places among those that are left."""
    arguments = bind(old)
    source, dim = arguments["self"], arguments["dim"] % len(shape_of(old))
    kept = rewriter.kept(source).get(dim)
    if kept is None:
        return
    length = shape_of(source)[dim]
    if op_name(old) == "select_scatter":
        places = torch.nonzero(kept == int(arguments["index"]) % length).reshape(-1)
        if len(places):
            rewriter.new[old].update_arg(3, int(places[0]))
        else:
            rewriter.new[old].replace_all_uses_with(rewriter.new[source])
            rewriter.new[old] = rewriter.new[source]
        return
    bounds = slice(arguments["start"], arguments["end"], arguments["step"])
    places = torch.tensor(range(length)[bounds], dtype=torch.int64)
    chosen = torch.nonzero(torch.isin(kept, places)).reshape(-1)
    new, piece = rewriter.new[source], rewriter.new[arguments["src"]]
    if len(chosen) == 0:
        rewriter.new[old].replace_all_uses_with(new)
        rewriter.new[old] = new
    elif int(chosen[-1]) - int(chosen[0]) + 1 == len(chosen):
        start, stop = int(chosen[0]), int(chosen[-1]) + 1
        rewriter.replace(old, aten.slice_scatter.default, (new, piece, dim, start, stop))
    else:
        index = rewriter.constant(f"{old.name}_index", chosen)
        rewriter.replace(old, aten.index_copy.default, (new, dim, index, piece))


def squeeze(rewriter: Rewriter, old: fx.Node) -> None:
    """A bare squeeze must not take an axis that has only now become 1."""
    arguments = bind(old)
    if "dim" in arguments:
        return
    source = arguments["self"]
    axes = [axis for axis, size in enumerate(shape_of(source)) if size == 1]
    rewriter.replace(old, aten.squeeze.dims, (rewriter.new[source], axes))


def reindex(rewriter: Rewriter, old: fx.Node) -> None:
    """Any op that only moves places along one axis, as an index (or a regular shuffle) of what is left."""
    source = old.all_input_nodes[0]
    axis, places = moved_places(old, rewriter)
    inputs, outputs = rewriter.kept(source), rewriter.kept(old)
    if axis not in inputs and axis not in outputs:
        return
    have = inputs.get(axis, torch.arange(shape_of(source)[axis]))
    want = places[outputs[axis]] if axis in outputs else places
    position = torch.full((shape_of(source)[axis],), -1)
    position[have] = torch.arange(len(have))
    index = position[want]
    if bool((index < 0).any()):
        raise GraphError(f"{where(old)}: a place was cut although it is needed", _FAULT)
    emit_index(rewriter, old, source, axis, index)


def moved_places(old: fx.Node, rewriter: Rewriter) -> tuple[int, Tensor]:
    """The axis along which an op moves places, and where each place of the result comes from."""
    source = old.all_input_nodes[0]
    size, out = shape_of(source), shape_of(old)
    touched = [
        axis for axis in range(len(size)) if axis in rewriter.kept(source) or axis in rewriter.kept(old)
    ]
    if len(size) == len(out) and len(touched) == 1:
        axis = touched[0]
        vector = torch.arange(size[axis]).reshape([-1 if a == axis else 1 for a in range(len(size))])
        moved = run_op(old, {source: vector.expand(size)}, rewriter.found.values.constant)
        places = moved.movedim(axis, 0).reshape(moved.shape[axis], -1)
        if bool((places == places[:, :1]).all()):
            return axis, places[:, 0]
    raise GraphError(f"{where(old)}: its operand cannot be cut", "keep that layer whole with --keep")


def emit_index(rewriter: Rewriter, old: fx.Node, source: fx.Node, axis: int, index: Tensor) -> None:
    """Write an index along one axis: nothing, a shuffle of equal groups, or an index_select."""
    new, size = rewriter.new[source], rewriter.found.size(source)[axis]
    if len(index) == size and bool((index == torch.arange(size)).all()):
        rewriter.new[old].replace_all_uses_with(new)
        rewriter.graph.erase_node(rewriter.new[old])
        rewriter.new[old] = new
        return
    groups = regular_groups(index, size)
    shape = list(old.meta["val"].shape)
    static = all(isinstance(n, int) for a, n in enumerate(shape) if a not in (0, axis)) and axis > 0
    if groups and static:
        sizes = [len(rewriter.kept(old)[a]) if a in rewriter.kept(old) else n for a, n in enumerate(shape)]
        inner = [-1, *sizes[1:axis], groups, size // groups, *sizes[axis + 1 :]]
        here = rewriter.new[old]
        with rewriter.graph.inserting_before(here):
            opened = rewriter.graph.call_function(aten.view.default, (new, inner))
            turned = rewriter.graph.call_function(aten.transpose.int, (opened, axis, axis + 1))
        opened.meta, turned.meta = dict(here.meta), dict(here.meta)
        rewriter.replace(old, aten.reshape.default, (turned, [-1, *sizes[1:axis], size, *sizes[axis + 1 :]]))
        return
    constant = rewriter.constant(f"{old.name}_index", index)
    rewriter.replace(old, aten.index_select.default, (new, axis, constant))


def regular_groups(index: Tensor, size: int) -> int:
    """The number of equal groups that an index shuffles, 0 if it does something else."""
    if len(index) != size or size < 4 or int(index[0]) != 0:
        return 0
    step = int(index[1])
    if step <= 1 or size % step:
        return 0
    groups = size // step
    shuffled = torch.arange(size).reshape(groups, step).T.reshape(-1)
    return groups if torch.equal(shuffled, index) else 0


def pad(rewriter: Rewriter, old: fx.Node) -> None:
    """The margins that are left."""
    arguments = bind(old)
    x, amounts = arguments["self"], [int(a) for a in arguments["pad"]]
    kept, rank = rewriter.kept(old), len(shape_of(old))
    changed = list(amounts)
    for pair in range(len(amounts) // 2):
        axis = rank - 1 - pair
        if axis not in kept and axis not in rewriter.kept(x):
            continue
        low, size = amounts[2 * pair], shape_of(x)[axis]
        places = kept.get(axis, torch.arange(shape_of(old)[axis])) - low
        inner = rewriter.kept(x).get(axis, torch.arange(size))
        inside = places[(places >= 0) & (places < size)]
        if not torch.equal(inside, inner):
            what = f"{where(old)}: a crop of axis {axis} cannot be cut"
            raise GraphError(what, "keep that layer whole with --keep")
        changed[2 * pair] = int((places < 0).sum())
        changed[2 * pair + 1] = int((places >= size).sum())
    rewriter.new[old].update_arg(1, changed)


def create(rewriter: Rewriter, old: fx.Node) -> None:
    """zeros, ones, full: the sizes."""
    name = "size" if "size" in bind(old) else "shape"
    position = [argument.name for argument in old.target._schema.arguments].index(name)  # type: ignore[union-attr]
    rewriter.new[old].update_arg(position, _sizes(rewriter, old, bind(old)[name]))


def nothing(rewriter: Rewriter, old: fx.Node) -> None:
    """The op carries no sizes."""


REWRITES: dict[str, Callable[[Rewriter, fx.Node], None]] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), view),
    **dict.fromkeys(("unflatten",), unflatten),
    **dict.fromkeys(("expand",), expand),
    **dict.fromkeys(
        ("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split",
         "unsafe_split_with_sizes"),
        split,
    ),
    "unbind": unbind,
    "select": select,
    "slice": slice_,
    "narrow": slice_,
    "squeeze": squeeze,
    "index_select": reindex,
    **dict.fromkeys(("roll", "channel_shuffle", "native_channel_shuffle"), reindex),
    **dict.fromkeys(
        ("adjoint", "flatten", "flip", "fliplr", "flipud", "matrix_H", "mH", "mT", "moveaxis", "movedim",
         "numpy_T", "permute", "swapaxes", "swapdims", "t", "T", "transpose", "unsqueeze", "view_as",
         "expand_as", "reshape_as", "repeat", "tile", "repeat_interleave", "pixel_unshuffle", "pixel_shuffle",
         "unfold", "diagonal", "rot90", "take_along_dim"),
        nothing,
    ),
}  # fmt: skip


def changed(rewriter: Rewriter, old: fx.Node) -> bool:
    """Whether some axis of a node's operands or results loses elements."""
    nodes = [old, *old.all_input_nodes]
    return any(any(kept for kept in rewriter.found.kept.get(node, [])) for node in nodes)
