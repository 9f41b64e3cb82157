"""The steps by name: what each does in a line, and which option groups it takes.

A step's options are a union of groups; a name that stands in two groups (``threads``) is one option that
sets both. Command line and recipe hand their values to ``request`` and get the same objects.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sslcli.options.common import DataOptions, ModelOptions, Options, RunOptions
from sslcli.options.validation import OptionsError, Problem, parse, unknown_key

Product = Literal["model", "onnx", "none"]


@dataclass(frozen=True)
class StepKind:
    """One verb of the tool.

    Attributes:
        name: the command's and the recipe's word for it.
        summary: one line of help.
        own: ``module:Class`` of the step's own options.
        product: what it leaves for the next step.
        data: whether it reads data (always, if asked to, never).
    """

    name: str
    summary: str
    own: str
    product: Product
    data: Literal["needed", "optional", "no"]


STEPS: dict[str, StepKind] = {
    kind.name: kind
    for kind in (
        StepKind(
            "train",
            "Train or fine-tune a model without a penalty: the baseline, the control, the last polish.",
            "sslcli.options.training:TrainOptions",
            "model",
            "needed",
        ),
        StepKind(
            "regularize",
            "Fine-tune with group Lasso until whole groups are exactly zero.",
            "sslcli.options.training:RegularizeOptions",
            "model",
            "needed",
        ),
        StepKind(
            "prune",
            "Remove zero groups, or choose them by threshold, share or target, and verify the result.",
            "sslcli.options.prune:PruneOptions",
            "model",
            "optional",
        ),
        StepKind(
            "export",
            "Write ONNX lowered for the target, or .pt2 or .safetensors by the suffix.",
            "sslcli.options.export:ExportOptions",
            "onnx",
            "no",
        ),
        StepKind(
            "bench",
            "Time models against a base, whole and layer by layer.",
            "sslcli.options.bench:BenchOptions",
            "none",
            "no",
        ),
        StepKind(
            "inspect",
            "Show layers, groups, sparsity and MACs, and why a layer is left whole.",
            "sslcli.options.inspect:InspectOptions",
            "none",
            "optional",
        ),
        StepKind(
            "evaluate",
            "Measure accuracy and loss of a model on a data set.",
            "sslcli.options.inspect:EvaluateOptions",
            "none",
            "needed",
        ),
    )
}


@dataclass(frozen=True)
class Settings:
    """The options of one step, by group."""

    step: Any
    model: ModelOptions
    data: DataOptions
    run: RunOptions

    def with_model(self, model: ModelOptions) -> Settings:
        """The same settings for another source model."""
        return replace(self, model=model)


def groups(step: str) -> dict[str, type[Options]]:
    """The option groups of ``step``, the step's own first."""
    return {"step": own_options(step), "model": ModelOptions, "data": DataOptions, "run": RunOptions}


def own_options(step: str) -> type[Options]:
    """The class of the options that only ``step`` has."""
    module, _, name = STEPS[step].own.partition(":")
    kind: type[Options] = getattr(importlib.import_module(module), name)
    return kind


def settings(
    step: str,
    values: Mapping[str, object],
    defaults: Mapping[str, Mapping[str, object]] | None = None,
) -> Settings:
    """Sort ``values`` into the groups of ``step`` and validate them.

    Args:
        step: the step's name.
        values: what was given for this step, by option name.
        defaults: by group, what holds where ``values`` say nothing (a recipe's ``data`` for every step).

    Raises:
        OptionsError: unknown names and wrong values, all of them.
    """
    kinds = groups(step)
    known = {name for kind in kinds.values() for name in kind.model_fields}
    problems = [unknown_key((name,), known) for name in values if name not in known]
    parsed: dict[str, Options] = {}
    for group, kind in kinds.items():
        mine = {name: value for name, value in values.items() if name in kind.model_fields}
        try:
            parsed[group] = parse(kind, {**(defaults or {}).get(group, {}), **mine})
        except OptionsError as error:
            problems += error.problems
    if problems:
        raise OptionsError(_once(problems))
    return Settings(**parsed)  # type: ignore[arg-type]


def _once(problems: list[Problem]) -> list[Problem]:
    """A name that two groups share is complained about once."""
    return list({(problem.path, problem.what): problem for problem in problems}.values())
