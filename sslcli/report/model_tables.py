"""Tables of ``prune``, ``export`` and ``inspect``: what a model consists of, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from sslcli.pipeline import results
from sslcli.report.module_tree import module_rows
from sslcli.report.numbers import count, metric, per_cent, size
from sslcli.report.tables import file_line, interval_cell, new_table, notices, speedup_cell, verified

_FEW_NAMES = 3
_TENTHS = {0: "least", 2: "20 %", 5: "50 %", 8: "80 %", 10: "most"}  # of the sizes of groups

Layer = Mapping[str, Any]
MOST_NAMES = 6


def print_prune(console: Console, result: results.PruneResult) -> None:
    """Print what went, what is left, and that the rest computes the same."""
    table = new_table("", "before", "after", "left")
    for name, before, after in (
        ("MACs", result.macs_before, result.macs_after),
        ("MACs, packed", result.macs_before, result.macs_packed),
        ("parameters", result.params_before, result.params_after),
    ):
        left = Text(per_cent(after / max(before, 1)), style="green" if after < before else "yellow")
        table.add_row(name, count(before), count(after), left)
    console.print(table)
    console.print()
    layers = new_table("layer", "filters", "columns", "MACs", "after", "packed")
    for layer in result.layers:
        layers.add_row(
            Text(str(layer["name"])),
            *(_live(layer[key]) for key in ("filters", "columns")),
            *(count(layer[key]) for key in ("macs_before", "macs_after", "macs_packed")),
        )
    console.print(layers)
    _print_reasons(console, result.layers)
    notices(console, [*(f"an op that no rule knows: {where}" for where in result.unknown), *result.notes])
    for split, metrics in result.metrics.items():
        words = ", ".join(f"{name} {metric(name, value)}" for name, value in metrics.items())
        console.print(Text(f"{split}: {words}"))
    errors = _error(result.max_abs_error, result.max_rel_error)
    verified(console, f"{errors}, reloaded {result.reloaded_abs_error:.1e}")
    if result.plan is not None:
        file_line(console, "plan", result.plan)
    file_line(console, size(result.size_bytes), result.output)


def print_export(console: Console, result: results.ExportResult) -> None:
    """Print which lowering was chosen for each layer, and all that were timed where asked for."""
    if result.layers:
        table = new_table("layer", "live", "lowering", "speedup", "95 % interval")
        for layer in result.layers:
            chosen = layer["timings"].get(layer["choice"], {})
            table.add_row(
                Text(str(layer["layer"])),
                per_cent(layer["live"]),
                Text(str(layer["choice"]), style="" if layer["choice"] == "dense" else "bold"),
                speedup_cell(chosen.get("speedup"), chosen.get("low"), chosen.get("high")),
                interval_cell(chosen.get("low"), chosen.get("high")),
            )
        console.print(table)
        if result.explain:
            _explain(console, result.layers)
        else:
            notices(console, _untimed(result))
    if result.speedup is not None:
        value, low, high = (result.speedup[key] for key in ("value", "low", "high"))
        whole = Text("whole model ")
        whole.append_text(speedup_cell(value, low, high))
        console.print(whole.append(f" as fast as dense ({interval_cell(low, high)})"))
    verified(console, _error(result.max_abs_error, result.max_rel_error))
    file_line(console, f"{size(result.size_bytes)}, lowering {result.lowering}", result.output)


def print_inspect(console: Console, result: results.InspectResult) -> None:
    """Print the layers, what pruning would leave, why the rest stays, and where the file came from."""
    table = new_table("layer", "kind", "shape", "filters", "channels", "columns", "MACs", gap=1)
    for name, layer, macs in _named(console, result.layers):
        if layer is None:
            table.add_row(Text(name), "", "", "", "", "", Text(count(macs), style="dim"))
            continue
        table.add_row(
            Text(name),
            str(layer["kind"]),
            "x".join(str(axis) for axis in layer.get("shape") or ()),
            *(_live(layer.get(key)) for key in ("filters", "channels", "columns")),
            count(macs),
        )
    console.print(table)
    packed = f" ({count(result.macs_packed)} packed)" if result.macs_packed != result.macs else ""
    console.print(Text(f"{count(result.macs)} MACs{packed}, {count(result.params)} parameters"))
    details = result.details
    left = details.get("left if pruned")
    if left:
        words = f"pruning now would leave {count(left['macs'])} MACs, {count(left['params'])} parameters"
        console.print(Text(words, style="green" if left["macs"] < result.macs else ""))
    _print_reasons(console, result.layers)
    _print_groups(console, details.get("groups") or ())
    _print_sensitivity(console, details.get("sensitivity"))
    notices(console, [f"an op that no rule knows: {where}" for where in details.get("unknown") or ()])
    notices(console, details.get("notes") or ())
    if details.get("record"):
        console.print(_record_tree(details["record"]))


def _named(console: Console, layers: Sequence[Layer]) -> Iterable[tuple[str, Layer | None, float]]:
    """The tree of modules on a terminal; elsewhere whole names, a line per layer, for other programs."""
    if console.is_terminal:
        return module_rows(layers)
    return [(str(layer["name"]), layer, layer["macs"]) for layer in layers]


def _print_sensitivity(console: Console, found: Mapping[str, Any] | None) -> None:
    """Accuracy against the share of each layer's filters removed; red where a tenth is lost.

    The columns are the shares of the layer with most groups; in another layer a share that is not
    among them is told beside the figure.
    """
    if not found or not found["curves"]:
        return
    columns = max(found["curves"], key=lambda curve: (len(curve["removed"]), curve["groups"]))["removed"]
    table = new_table("layer", "filters", *(f"{share:.0%} gone" for share in columns))
    for curve in found["curves"]:
        cells = [Text("") for _ in columns]
        for share, value in zip(curve["removed"], curve["metric"], strict=True):
            at = min(range(len(columns)), key=lambda number: abs(columns[number] - share))
            words = f"{value:.1%}" if f"{columns[at]:.0%}" == f"{share:.0%}" else f"{value:.1%} ({share:.0%})"
            cell = Text(words, style="red" if value < found["whole"] - 0.1 else "")
            cells[at] = Text(", ").join([cells[at], cell]) if cells[at] else cell
        table.add_row(Text(str(curve["label"])), str(curve["groups"]), *cells)
    console.print()
    console.print(table)
    words = f"{found['metric']} of {found['samples']} {found['split']} samples, {found['whole']:.1%} as it is"
    console.print(Text(f"{words}; nothing is retrained"))


def _print_groups(console: Console, groups: Sequence[Mapping[str, Any]]) -> None:
    if not groups:
        return
    table = new_table("structure", "groups of", "zero", "all", *_TENTHS.values(), left=2)
    for group in groups:
        zero = int(group["zero"])
        colour = "green" if zero else ""
        sizes = [f"{group['rms'][at]:.2g}" for at in _TENTHS] if group["rms"] else []
        table.add_row(
            group["structure"],
            Text(str(group["label"])),
            Text(str(zero), style=colour),
            str(group["count"]),
            *sizes,
        )
    console.print()
    console.print(table)
    console.print(
        "least to most: root mean square of groups that are not zero; prune --threshold",
        style="dim",
    )


def _print_reasons(console: Console, layers: Iterable[Layer]) -> None:
    """Layers that stay whole, by the reason."""
    reasons: dict[str, list[str]] = {}
    for layer in layers:
        if layer.get("why"):
            reasons.setdefault(str(layer["why"]), []).append(str(layer["name"]))
    if not reasons:
        return
    tree = Tree(Text("left whole, and why", style="bold"))
    for why, names in reasons.items():
        shown = ", ".join(names[:MOST_NAMES])
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        tree.add(Text.assemble(f"{shown}{more}: ", (why, "dim")))
    console.print(tree)


def _record_tree(record: Mapping[str, Any]) -> Tree:
    tree = Tree(Text("record", style="bold"))
    for name in ("arch", "data", "mean", "std", "metrics"):
        if record.get(name):
            tree.add(Text(f"{name}: {_words(record[name])}"))
    for step in record.get("provenance") or ():
        tree.add(Text(f"made by {step['command']}: {_words(step['options']) or 'no options'}"))
    return tree


def _words(value: Any) -> str:
    if isinstance(value, Mapping) and {"name", "strength"} <= set(value):
        return f"{value['name']}={value['strength']:g}" + (f"@{value['match']}" if value.get("match") else "")
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _untimed(result: results.ExportResult) -> list[str]:
    """Why layers with zeros stayed as they are although nothing was measured."""
    left = [layer for layer in result.layers if layer["choice"] == "dense" and not layer["timings"]]
    if result.lowering != "auto":
        return [f"{result.lowering} applies to no layer"] if len(left) == len(result.layers) else []
    layers: dict[str, list[str]] = {}
    for layer in left:
        layers.setdefault(str(layer["note"] or "unknown"), []).append(str(layer["layer"]))
    return [f"{_some(names)} not measured: {why}" for why, names in layers.items()]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _FEW_NAMES else f"{names[0]} and {len(names) - 1} other layers"


def _explain(console: Console, layers: Iterable[Layer]) -> None:
    for layer in layers:
        kept = " (timed by an earlier export)" if layer.get("from_cache") else ""
        tree = Tree(Text(str(layer["layer"]), style="bold").append(kept, style="dim"))
        for name, timed in layer["timings"].items():
            line = Text(f"{name}: {timed['median_ms']:.4f} ms, ")
            line.append_text(speedup_cell(timed["speedup"], timed["low"], timed["high"]))
            tree.add(line.append(f" ({interval_cell(timed['low'], timed['high'])})"))
        for name, why in layer["refused"].items():
            tree.add(Text(f"{name}: {why}", style="dim"))
        if layer["note"]:
            tree.add(Text(str(layer["note"]), style="yellow"))
        console.print(tree)


def _live(pair: Any) -> Text:
    """``5/20``: live of all; dim where nothing is missing."""
    if pair is None:
        return Text("")
    live, whole = pair
    return Text(str(whole), style="dim") if live == whole else Text(f"{live}/{whole}", style="green")


def _error(absolute: float, relative: float) -> str:
    return f"largest difference {absolute:.1e} (relative {relative:.1e})"
