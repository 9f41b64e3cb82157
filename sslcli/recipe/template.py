"""The recipe that ``sslcli recipe init`` writes: commented, and good to run as it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sslcli.errors import OutputError
from sslcli.files import atomic_output, check_writable

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

# What all steps read. mean and std per channel may be given; the choice is recorded in the outputs.
data:
  name: {data}
  batch_size: 64

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

  # Remove what is zero; the result is compared with the masked model.
  - id: small
    uses: prune

  # ONNX for the machine that serves it: each layer in the form that measured fastest.
  - id: onnx
    uses: export

  # The file that will be served, on the test set.
  - id: after
    uses: evaluate

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
    with: {epochs: 10, lr: 0.01}
"""
_COPY = """\
  # The model as it is, exported without any change, and its error: the base of all comparisons.
  - {id: baseline, uses: export, with: {lower: dense}}
  - {id: before, uses: evaluate}
"""


def template(model: str, data: str, arch: str | None = None) -> str:
    """The text for a MODEL as the command line names it."""
    fresh = model.startswith("arch:")
    values = {
        "title": model,
        "file": "RECIPE.yaml",
        "arch": _scalar(model.removeprefix("arch:") if fresh else arch),
        "weights": _scalar(None if fresh else model),
        "data": _scalar(data),
        "baseline": _TRAIN if fresh else _COPY,
        "base": "baseline",
    }
    text = _TEMPLATE.format(**values)
    return text if fresh else text.replace("  - id: sparse\n", "  - id: sparse\n    needs: []\n")


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
