"""What a recipe says of layers against the start model, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sslcli.errors import RecipeError
from sslcli.options.validation import nearest
from sslcli.pipeline.inputs import load_model
from sslcli.recipe.model import Recipe, Step


def check_globs(recipe: Recipe) -> None:
    """Raise if a step speaks of layers or structures that the start model does not have.

    Only recipes that speak of some pay for it: the model is built and traced. Steps after a ``prune`` see
    another network, whose layers may be gone; theirs are checked when they run.

    Raises:
        RecipeError: ``file:line``, with the nearest layer.
    """
    steps = list(_unpruned(recipe))
    asked = [(step, kind, glob) for step in steps for kind, glob in _structures(step)]
    named = [(step, glob) for step in steps if step.uses == "prune" for glob in _layers(step)]
    if not asked and not named:
        return
    from sslcli.graph.groups import find_groups, matches
    from sslcli.graph.slots import analyse
    from sslcli.graph.trace import trace
    from sslcli.surgery.measure import layers

    loaded = load_model(_source(recipe), recipe.model, recipe.seed, recipe.data)
    structure = analyse(trace(loaded.model, loaded.example))
    for step, kind, glob in asked:
        if not find_groups(structure, kind, glob):
            labels = [group.label for group in find_groups(structure, kind)]
            if glob == "*":
                raise _error(recipe, step, kind, f"no layer has {kind} groups", labels)
            wrong = f"the glob '{glob}' matches no layer with {kind} groups"
            raise _error(recipe, step, glob, wrong, labels)
    names = [layer.name for layer in layers(structure)] if named else []
    for step, glob in named:
        if not any(matches(name, glob) for name in names):
            raise _error(recipe, step, glob, f"the glob '{glob}' matches no layer", names)


def _source(recipe: Recipe) -> str:
    """The start model, or a fresh one where its weights are not at hand: layers are those of the class."""
    there = recipe.source.startswith("arch:") or Path(recipe.source).exists()
    return recipe.source if there or recipe.model.arch is None else f"arch:{recipe.model.arch}"


def _error(recipe: Recipe, step: Step, word: str, wrong: str, labels: list[str]) -> RecipeError:
    what = f"{recipe.place(step, word)}: {wrong} in step '{step.id}'"
    return RecipeError(what, nearest(word, labels) or _some(labels))


def _unpruned(recipe: Recipe) -> Iterator[Step]:
    """The steps that are given the start model's own network."""
    pruned: set[str] = set()
    for step in recipe.steps:
        if pruned & set(step.inputs[:1]):
            pruned.add(step.id)
            continue
        if step.uses == "prune":
            pruned.add(step.id)
        yield step


def _structures(step: Step) -> Iterator[tuple[str, str]]:
    chosen = step.settings.step
    for entry in (*getattr(chosen, "structures", ()), *getattr(chosen, "shares", ())):
        if not isinstance(entry, str):  # prune's structures are names alone, of what there may be
            yield entry.name, entry.match


def _layers(step: Step) -> Iterator[str]:
    yield from getattr(step.settings.step, "keep", ())
    yield from getattr(step.settings.step, "limit", {})


def _some(labels: list[str]) -> str:
    shown = ", ".join(labels[:6])
    return f"layers are {shown}" + (", ..." if len(labels) > 6 else "") if labels else "leave it out"
