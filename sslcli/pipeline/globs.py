"""Globs of a recipe against the start model, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator

from sslcli.errors import RecipeError
from sslcli.options.validation import nearest
from sslcli.pipeline.inputs import load_model
from sslcli.recipe.model import Recipe, Step


def check_globs(recipe: Recipe) -> None:
    """Raise if a structure's glob matches no layer of the start model.

    Only recipes that have globs pay for it: the model is built and traced. Steps after a ``prune`` see
    another network, whose layers may be gone; theirs are checked when they run.

    Raises:
        RecipeError: ``file:line``, with the nearest layer.
    """
    asked = [(step, kind, glob) for step in _unpruned(recipe) for kind, glob in _globs(step)]
    if not asked:
        return
    from sslcli.graph.groups import find_groups
    from sslcli.graph.slots import analyse
    from sslcli.graph.trace import trace

    loaded = load_model(recipe.source, recipe.model, recipe.seed, recipe.data)
    structure = analyse(trace(loaded.model, loaded.example))
    for step, kind, glob in asked:
        if not find_groups(structure, kind, glob):
            labels = [group.label for group in find_groups(structure, kind)]
            place = recipe.place(step, glob)
            what = f"{place}: the glob '{glob}' matches no layer with {kind} groups in step '{step.id}'"
            raise RecipeError(what, nearest(glob, labels) or _some(labels))


def _unpruned(recipe: Recipe) -> Iterator[Step]:
    """The steps that work on the start model's own network."""
    pruned: set[str] = set()
    for step in recipe.steps:
        if step.uses == "prune" or pruned & set(step.needs[:1]):
            pruned.add(step.id)
        else:
            yield step


def _globs(step: Step) -> Iterator[tuple[str, str]]:
    for entry in getattr(step.settings.step, "structures", ()):
        if not isinstance(entry, str) and entry.match != "*":  # prune's are names alone
            yield entry.name, entry.match


def _some(labels: list[str]) -> str:
    shown = ", ".join(labels[:6])
    return f"layers are {shown}" + (", ..." if len(labels) > 6 else "") if labels else "there is none"
