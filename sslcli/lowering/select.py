"""Measured selection: for every layer the fastest lowering that computes the same, dense included."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from sslcli.bench import time_models
from sslcli.bench.graphs import fixed_batch
from sslcli.bench.inputs import RunSettings
from sslcli.bench.statistics import Ratio, paired_ratio
from sslcli.errors import GraphError, InputError, UsageError, VerificationError
from sslcli.lowering import check, forms, protos
from sslcli.lowering.clean import clean
from sslcli.lowering.drop_channels import drop_channels
from sslcli.lowering.fragments import Fragment, replace_node
from sslcli.lowering.measure import DENSE, best, measure
from sslcli.lowering.pad_channels import pad_channels
from sslcli.lowering.patterns import is_sparse, macs_share
from sslcli.lowering.precision import convert
from sslcli.lowering.regions import alone, region, region_key
from sslcli.lowering.response_norm import expand_response_norms
from sslcli.lowering.sites import Site, find_sites
from sslcli.lowering.timings import Timed, cache_folder, question, recall, remember
from sslcli.options.export import DType

_log = logging.getLogger(__name__)
_WHOLE_S = 2.0
_BLOCKS = (1, 4, 8, 16)


@dataclass(frozen=True)
class Decision:
    """What was chosen for one layer, and why.

    Attributes:
        layer: the node's name.
        op_type: ``conv`` or ``linear``; ``channels`` for filters that went with all their readers; ``norm``
            for LRN operators.
        weight_shape: shape of the weight.
        live: live rows x live columns as a share of all.
        chosen: name of the lowering, ``dense`` for none.
        timings: median and speedup of each candidate in place; empty where nothing was timed.
        refused: candidates that were not timed, and why.
        from_cache: whether the timings are those of an earlier run.
        note: why nothing was timed, or why a choice was taken back.
    """

    layer: str
    op_type: str
    weight_shape: tuple[int, ...]
    live: float
    chosen: str
    timings: Mapping[str, Timed] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    from_cache: bool = False
    note: str | None = None


@dataclass(frozen=True)
class Lowered:
    """A lowered model.

    Attributes:
        model: computes what the given one does, to rounding.
        decisions: one for every layer with structured zeros, in the graph's order.
        speedup: of the whole model over the given one; None where it was not timed.
        max_rel_error: of its outputs on fresh inputs.
    """

    model: onnx.ModelProto
    decisions: tuple[Decision, ...]
    speedup: Ratio | None
    max_rel_error: float


def lower(
    model: onnx.ModelProto,
    *,
    choice: str = "auto",
    settings: RunSettings | None = None,
    dtype: DType = "fp32",
    cache: bool = True,
    whole_s: float = _WHOLE_S,
) -> Lowered:
    """Replace layers with structured zeros by forms that standard kernels run faster.

    Args:
        model: any float32 ONNX model, opset 13 or newer; left as it is.
        choice: ``auto`` measures every form in place and keeps the fastest (or the dense layer); ``dense``
            changes nothing; the name of a form uses it wherever it applies, without measuring.
        settings: the target's provider, threads and batch size, and the seconds of measurement for a layer.
        dtype: precision in which candidates are timed; the model that comes back is float32.
        cache: use timings of earlier runs on this host, and keep new ones.
        whole_s: seconds of measurement for what is timed on the whole model.

    Raises:
        UsageError: no form is called ``choice``.
        VerificationError: the lowered model computes something else.
        DeviceError: the provider is missing.
    """
    if choice not in ("auto", DENSE, *forms.names()):
        raise UsageError(
            f"no lowering is called {choice}", f"choose auto, dense or {', '.join(forms.names())}"
        )
    settings = settings or RunSettings(budget_s=1.0)
    base = onnx.ModelProto()
    base.CopyFrom(model)
    base = clean(base)
    if choice == DENSE:
        return Lowered(base, (), None, 0.0)
    fixed = check.fixed_batch_size(base.graph)
    if fixed is not None:  # the only batch that it can run at
        settings = replace(settings, batch_size=fixed)
    folder = cache_folder() if cache else None
    references = check.references_of(base, input_shape=settings.input_shape)
    start, decisions = base, list[Decision]()
    if choice == "auto":
        whole = replace(settings, budget_s=whole_s)
        plain, norms = _cheaper_norms(base, whole, dtype)
        start, decisions, sparse = _other_channels(plain, references, whole, dtype, folder)
        decisions = [*norms, *decisions]
    else:
        sparse = {name for name, site in find_sites(start).items() if is_sparse(site)}
    lowered, used = start, {}
    for name, site in find_sites(start).items():
        if name not in sparse or not is_sparse(site):
            continue
        if choice == "auto":
            decision, fragment = _measured(lowered, name, site, settings, dtype, folder)
        else:
            decision, fragment = _named(name, site, choice)
        decisions.append(decision)
        if fragment is not None:
            lowered = replace_node(lowered, name, fragment)
            used[name] = fragment
    speedup = None
    if choice == "auto" and lowered is not base:
        longest = replace(settings, budget_s=max(whole_s, settings.budget_s))
        lowered, decisions, speedup = _confirmed(base, start, lowered, decisions, used, longest, dtype)
    check.check_structure(lowered)
    errors = check.require_references(
        lowered,
        references,
        check.tolerance(base),
        "the lowered model",
    )
    return Lowered(lowered, tuple(decisions), speedup, errors.max_rel)


def _cheaper_norms(
    base: onnx.ModelProto, settings: RunSettings, dtype: DType
) -> tuple[onnx.ModelProto, list[Decision]]:
    """The model with its LRN operators written out; or as it is where they are faster."""
    norms = [node.name for node in base.graph.node if node.op_type == "LRN"]
    expanded = expand_response_norms(base)
    if expanded is base:
        return base, []
    models = {DENSE: convert(base, dtype), "expand": convert(expanded, dtype)}
    timings = measure(models, settings)
    if best(timings) == DENSE:
        return base, []
    note = "written out; timed on the whole model"
    return expanded, [Decision(name, "norm", (), 1.0, "expand", timings, note=note) for name in norms]


def _other_channels(
    base: onnx.ModelProto,
    references: Sequence[check.Reference],
    settings: RunSettings,
    dtype: DType,
    folder: Path | None,
) -> tuple[onnx.ModelProto, list[Decision], set[str]]:
    """The model without dead channels, and with their number as kernels like it; or as it is where that wins.

    Returns:
        The model, a decision for each layer whose filters changed, and the layers that have zeros of their
        own, which those that are added are not.
    """
    variants: dict[str, tuple[onnx.ModelProto, dict[str, int], dict[str, int]]] = {}
    plain = {DENSE: base}
    for block in _BLOCKS:
        dropped, gone = drop_channels(base, block=block)
        padded, added = pad_channels(dropped, block=block) if block > 1 else (dropped, {})
        if gone or added:
            name = f"{'drop' if gone else 'pad'}-channels-{block}"
            variants[name], plain[name] = (padded, gone, added), dropped
    timings = _whole_timings(
        base, {name: model for name, (model, _, _) in variants.items()}, references, settings, dtype, folder
    )
    chosen = best(timings)
    sparse = {name for name, site in find_sites(plain[chosen]).items() if is_sparse(site)}
    if chosen == DENSE:
        return base, [], sparse
    model, gone, added = variants[chosen]
    shapes = _weight_shapes(base)
    decisions = [
        Decision(
            name,
            "channels",
            shapes[name],
            1 - gone.get(name, 0) / shapes[name][0],
            chosen,
            timings,
            note=_changed(shapes[name][0], gone.get(name, 0), added.get(name, 0)),
        )
        for name in dict.fromkeys([*gone, *added])
    ]
    return model, decisions, sparse


def _whole_timings(
    base: onnx.ModelProto,
    variants: Mapping[str, onnx.ModelProto],
    references: Sequence[check.Reference],
    settings: RunSettings,
    dtype: DType,
    folder: Path | None,
) -> Mapping[str, Timed]:
    """Timings of ``base`` and of the variants that compute the same, from an earlier export where kept."""
    models = {DENSE: base}
    for name, model in variants.items():
        try:
            check.require_references(model, references, check.tolerance(base), name)
        except VerificationError as error:
            _log.warning("%s is left out: %s", name, error.what)
        else:
            models[name] = model
    if len(models) == 1:
        return {}
    asked = [f"{name}:{region_key(model)}" for name, model in models.items()]
    key = question("whole", [*asked, dtype], settings)
    kept = recall(folder, key) if folder else None
    timings = kept or measure({name: convert(model, dtype) for name, model in models.items()}, settings)
    if folder and kept is None:
        remember(folder, key, timings)
    return timings


def _changed(filters: int, gone: int, added: int) -> str:
    words = [f"{gone} of {filters} filters went"] if gone else []
    words += [f"{added} filters of zeros came"] if added else []
    return f"{', '.join(words)}; timed on the whole model"


def _weight_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of convolutions and Gemm by node name, the filters first."""
    known = protos.constants(model.graph)
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and node.input[1] in known:
            dims = tuple(known[node.input[1]].dims)
            rows_last = node.op_type == "Gemm" and not protos.integer(node, "transB", 0)
            found[node.name] = dims[::-1] if rows_last else dims
    return found


def _decision(name: str, site: Site, chosen: str = DENSE) -> Decision:
    kind = type(site).__name__.removesuffix("Site").lower()
    return Decision(name, kind, tuple(site.weight.shape), macs_share(site), chosen)


def _named(name: str, site: Site, choice: str) -> tuple[Decision, Fragment | None]:
    decision = _decision(name, site)
    fragment = forms.candidate(site, choice)
    if fragment is None:
        return replace(decision, note=f"{choice} does not apply"), None
    return replace(decision, chosen=choice), fragment


def _measured(
    model: onnx.ModelProto, name: str, site: Site, settings: RunSettings, dtype: DType, folder: Path | None
) -> tuple[Decision, Fragment | None]:
    decision = _decision(name, site)
    fragments = forms.candidates(site)
    if not fragments:
        return replace(decision, note="no lowering applies"), None
    try:
        piece = region(model, name, settings)
        models, refused = _checked(piece, name, fragments, settings)
    except (GraphError, InputError) as error:
        return replace(decision, note=error.what), None
    # The candidates' own structure is part of the question, so that a form that changed is timed anew.
    asked = [f"{form}:{region_key(changed)}" for form, changed in models.items()]
    key = question(region_key(piece), [*asked, dtype], settings)
    kept = recall(folder, key) if folder else None
    if len(models) == 1:
        return replace(decision, refused=refused, note="no lowering computes the same"), None
    within = settings
    if check.fixed_batch_size(piece.graph) is not None:  # the first axes of its inputs need not be the batch
        within = replace(settings, batch_size=None)
    try:
        timings: Mapping[str, Timed] = kept or measure(
            {form: convert(proto, dtype) for form, proto in models.items()}, within
        )
    except InputError as error:
        return replace(decision, refused=refused, note=error.what), None
    if kept is None:
        timings, slower = _steady(model, name, fragments, timings, settings, dtype)
        refused |= slower
    if folder and kept is None:
        remember(folder, key, timings)
    chosen = best(timings)
    decision = replace(decision, chosen=chosen, timings=timings, refused=refused, from_cache=kept is not None)
    return decision, fragments.get(chosen)


def _steady(
    model: onnx.ModelProto,
    name: str,
    fragments: Mapping[str, Fragment],
    timings: Mapping[str, Timed],
    settings: RunSettings,
    dtype: DType,
) -> tuple[Mapping[str, Timed], dict[str, str]]:
    """The timings, those of winners that are slower than dense in the layer alone replaced by that; and why.

    The best of a dozen is partly the luckiest, and where the neighbours take most of the time (DenseNet's
    concatenations) luck is all that shows. So the winner is timed once more, in new sessions.
    """
    slower: dict[str, str] = {}
    try:
        piece = alone(model, name, settings)
    except (GraphError, InputError):  # its own shapes are not known, as its region's are
        return timings, slower
    settings = fixed_batch(replace(settings, budget_s=settings.budget_s / 2))
    while (chosen := best(timings)) != DENSE:
        pair = {DENSE: piece, chosen: replace_node(piece, name, fragments[chosen])}
        again = measure({form: convert(proto, dtype) for form, proto in pair.items()}, settings)[chosen]
        if again.speedup >= 1.0:
            break
        slower[chosen] = f"{again.speedup:.2f} times as fast as dense in the layer alone"
        timings = {**timings, chosen: again}
    return timings, slower


def _checked(
    piece: onnx.ModelProto, name: str, fragments: Mapping[str, Fragment], settings: RunSettings
) -> tuple[dict[str, onnx.ModelProto], dict[str, str]]:
    """The region with each candidate that computes the same in it, and why the others are refused.

    Raises:
        GraphError: ONNX Runtime does not run the region apart from the model.
    """
    feeds = check.fresh_feeds(piece, batch_size=1)
    expected = check.run_known(piece, feeds, f"the surroundings of {name}", settings.provider)
    models, refused = {DENSE: piece}, {}
    for form, fragment in fragments.items():
        changed = replace_node(piece, name, fragment)
        try:
            got = check.run_known(changed, feeds, form, settings.provider)
        except GraphError as error:
            refused[form] = error.what
            continue
        off = check.worst_error(expected, got)
        if off <= check.TOLERANCE["fp32"]:
            models[form] = changed
        else:
            refused[form] = f"relative error {off:.1e}"
    return models, refused


def _confirmed(
    base: onnx.ModelProto,
    start: onnx.ModelProto,
    lowered: onnx.ModelProto,
    decisions: list[Decision],
    used: dict[str, Fragment],
    settings: RunSettings,
    dtype: DType,
) -> tuple[onnx.ModelProto, list[Decision], Ratio | None]:
    """Time the whole model; while it is slower than dense, take back the weakest half of the choices."""
    ratio = _whole_ratio(base, lowered, settings, dtype)
    while used and ratio.value < 1.0:
        own = {d.layer: d for d in decisions if d.layer in used and d.op_type != "channels"}
        gain = {layer: d.timings[d.chosen].speedup for layer, d in own.items()}
        weakest = sorted(gain, key=lambda layer: gain[layer])[: -(-len(gain) // 2)]
        for layer in weakest:
            del used[layer]
        decisions = [
            replace(d, chosen=DENSE, note=f"{d.chosen} won in place but not in the whole model")
            if d.layer in weakest and d.op_type != "channels"
            else d
            for d in decisions
        ]
        lowered = start
        for layer, fragment in used.items():
            lowered = replace_node(lowered, layer, fragment)
        ratio = _whole_ratio(base, lowered, settings, dtype)
    return lowered, decisions, ratio if lowered is not base else None


def _whole_ratio(
    base: onnx.ModelProto, lowered: onnx.ModelProto, settings: RunSettings, dtype: DType
) -> Ratio:
    models = [convert(base, dtype).SerializeToString(), convert(lowered, dtype).SerializeToString()]
    dense, other = time_models(models, settings)
    return paired_ratio(dense.samples.ns, other.samples.ns)
