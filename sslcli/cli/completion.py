"""What a shell offers for words that have no list of choices: files, and the names that are built in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
from click.shell_completion import CompletionItem

from sslcli.options.export import FORMS
from sslcli.options.names import ARCHITECTURES, DATA_SETS

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _offer(words: Sequence[str] = ()) -> Completer:
    """Those of ``words`` that begin so, and else files, which the shell itself looks for."""

    def complete(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        names = [CompletionItem(word) for word in words if word.startswith(begun)]
        return [CompletionItem(begun, type="file"), *names]

    return complete


def _targets(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """What a target may speak of; only regularize can aim at a latency."""
    names = ("macs=", "params=", "latency=") if context.info_name == "regularize" else ("macs=", "params=")
    return [CompletionItem(name) for name in names if name.startswith(begun)]


def _lowerings(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in ("auto", "dense", *FORMS) if name.startswith(begun)]


FILES = _offer()
MODEL = _offer([f"arch:{name}" for name in ARCHITECTURES])
# By field; a code reference begins with a file.
FIELDS: dict[str, Completer] = {
    "arch": _offer(ARCHITECTURES),
    "data": _offer([*DATA_SETS, "imagefolder:"]),
    **{name: _offer() for name in ("baseline", "compare", "csv", "data_root", "markdown", "normalize_from")},
    "target": _targets,
    "lower": _lowerings,
    **{name: _offer() for name in ("replay", "task", "teacher", "tensorboard")},
}
