"""The recipe that ``sslcli recipe init`` writes: commented, and good to run as it is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from sslcli.errors import OutputError
from sslcli.files import atomic_output, check_writable
from sslcli.options.common import ModelOptions

_WORDS = ("null", "true", "false")

_TEMPLATE = """\
# Makes {title} smaller and faster, step by step: `sslcli run {file}`.
# Outputs land in runs/NAME/STEP/; steps that have not changed are not run again.
# Every key of `with` is a flag of the command without its dashes (`sslcli regularize --help`).
version: 1
seed: 0

# What the first step starts from: an architecture, and its weights (null: fresh from the seed).
model:
  arch: {arch}
  weights: {weights}
{keys}
# What all steps read. mean and std per channel may be given; the choice is recorded in the outputs.
data:
  name: {data}
  batch_size: 64
{facts}
steps:
{baseline}
  # Group Lasso until whole groups are exactly zero, then fine-tuning without it, zeros held at zero. The
  # target is what may be left: macs or params, as fractions; the strengths are found. If it is missed, the
  # run ends with exit code 5.
  - id: sparse
    uses: regularize
    with:
      target: {{macs: 0.5}}
      # max_drop: 0.5                                # at most half a point of accuracy less
      # structures: {{filter: 1.0e-3, shape: 1.0e-3}}  # strengths of your own, instead of a target
      epochs: 10
      finetune_epochs: 5
      lr: 0.01
{task_line}
  # Remove what is zero; the result is compared with the masked model.
  - id: small
    uses: prune

  # ONNX for the machine that serves it: each layer in the form that measured fastest.
  - id: onnx
    uses: export

  # The file that will be served, on the test set.
  - id: after
    uses: evaluate
{task_block}
  # Against the model before; fail_under makes the run fail (exit 7) if the speedup stays below it.
  - id: speed
    uses: bench
    needs: onnx
    with:
      baseline: {base}
      # fail_under: 1.5
"""

_TRAIN = """\
  # The model as it was before: the base of all comparisons.
  - id: baseline
    uses: train
    with: {{epochs: 10, lr: 0.01{task_item}}}
"""
_COPY = """\
  # The model as it is, exported without any change, and its error: the base of all comparisons.
  - {{id: baseline, uses: export, with: {{lower: dense}}}}
  - {{id: before, uses: evaluate{task_with}}}
"""


@dataclass(frozen=True)
class Start:
    """What a recipe is written for.

    Attributes:
        model: as the command line names it.
        data: the data set, likewise.
        options: how the model is read.
        task: what is learned, where it is not classification.
        input_shape: what the data set's samples will be, where that is known; told in a comment.
        mean: what will be subtracted from them, likewise.
        std: what they will be divided by, likewise.
    """

    model: str
    data: str
    options: ModelOptions = field(default_factory=lambda: ModelOptions.model_validate({}))
    task: str | None = None
    input_shape: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def template(start: Start) -> str:
    """The text of the recipe."""
    fresh = start.model.startswith("arch:")
    task = None if start.task is None else json.dumps(start.task)
    tasks = {
        "task_item": f", task: {task}" if task else "",
        "task_with": f", with: {{task: {task}}}" if task else "",
        "task_line": f"      task: {task}\n" if task else "",
        "task_block": f"    with: {{task: {task}}}\n" if task else "",
    }
    text = _TEMPLATE.format(
        title=start.model,
        file="RECIPE.yaml",
        arch=_scalar(start.model.removeprefix("arch:") if fresh else start.options.arch),
        weights=_scalar(None if fresh else start.model),
        keys=_keys(start.options),
        data=_scalar(start.data),
        facts=_facts(start),
        baseline=(_TRAIN if fresh else _COPY).format(**tasks),
        base="baseline",
        **tasks,
    )
    return text if fresh else text.replace("  - id: sparse\n", "  - id: sparse\n    needs: []\n")


def _keys(options: ModelOptions) -> str:
    """The further keys of ``model`` that were given; JSON is YAML."""
    given = options.model_dump(mode="json", exclude_defaults=True, exclude={"arch"})
    return "".join(f"  {name}: {json.dumps(value)}\n" for name, value in given.items())


def _facts(start: Start) -> str:
    """Comments on what will be used where nothing else is said."""
    lines = []
    if start.input_shape:
        shape = ",".join(str(size) for size in start.input_shape)
        lines.append(f"  # samples: {shape}, as channels,height,width of images")
    if start.mean:
        lines += [f"  # mean: {json.dumps(start.mean)}  # what is used; say it to change it"]
        lines += [f"  # std: {json.dumps(start.std)}"]
    return "".join(f"{line}\n" for line in lines)


def write_template(path: Path, text: str, *, force: bool = False) -> None:
    """Write ``text`` to a new file.

    Raises:
        OutputError: the file exists (without ``force``) or cannot be written.
    """
    check_writable(path)
    if path.exists() and not force:
        raise OutputError(f"{path} exists", "give --force to replace it, or another name")
    with atomic_output(path) as temporary:
        temporary.write_text(text)


def _scalar(value: str | None) -> str:
    """A YAML scalar that reads back as ``value``."""
    if value is None:
        return "null"
    return (
        value
        if re.fullmatch(r"[A-Za-z][\w./-]{3,}", value) and value.lower() not in _WORDS
        else json.dumps(value)
    )
