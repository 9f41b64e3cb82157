"""Rebuilding a model's class from a record, whose architecture and arguments come out of a file.

Code references are never run on a file's word. Of the other architectures, arguments that would fetch or
read weights are refused, and the size is found out without memory before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sslcli import models
from sslcli.checkpoint.match import fits, load_tensors, printable
from sslcli.checkpoint.record import Record
from sslcli.checkpoint.reshape import reshaped
from sslcli.errors import ModelError

_READS_FILES = re.compile(r"weight|pretrained|checkpoint|cache|url|path|file|hub|root|dir", re.IGNORECASE)
_PLAIN = (bool, int, float, str, type(None))
_FREE_ELEMENTS = 1 << 28  # 1 GB in float32
_GROWTH = 32  # a pruned file may be this much smaller than its fresh class
_MAX_ITEMS = 1000


def may_rebuild(record: Record) -> bool:
    """Whether the record names an architecture that is built without running the user's code."""
    return record.arch is not None and models.kind(record.arch) != "code"


def with_tensors(model: nn.Module, record: Record, tensors: Mapping[str, Tensor], where: str) -> nn.Module:
    """The model with the tensors in it, reshaped by the record's plan where the fresh class does not fit.

    Raises:
        ModelError: the tensors do not fit.
        PlanError: the plan does not fit.
    """
    if record.plan is not None and not fits(model, tensors):
        model = reshaped(model, record.plan, where)
    load_tensors(model, tensors, where)
    return model


def check_recorded(arch: str, record: Record, tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse recorded arguments that could read files or fill the memory.

    Raises:
        ModelError: there are such.
    """
    if not record.arch_args:
        return
    hint = "give --arch and --arch-arg yourself"
    for name, value in record.arch_args.items():
        if _READS_FILES.search(name) or not name.isidentifier() or not _is_plain(value):
            raise ModelError(
                f"the record of {where} has the argument {printable(name)}, which is not taken", hint
            )
    if models.kind(arch) == "code":
        return
    with torch.device("meta"):
        size = sum(tensor.numel() for tensor in models.build(arch, record.arch_args).state_dict().values())
    if size > max(_FREE_ELEMENTS, _GROWTH * sum(tensor.numel() for tensor in tensors.values())):
        raise ModelError(f"the record of {where} asks for a model of {size} weights", hint)


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= _MAX_ITEMS and all(isinstance(item, _PLAIN) for item in value)
    return isinstance(value, _PLAIN)
