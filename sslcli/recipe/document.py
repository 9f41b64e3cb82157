"""YAML text to plain values and the place of each, with everything refused that a recipe has no use for.

The text is untrusted. Sizes are bounded before anything is built, and the events are checked in one
iterative pass (nesting, tags, anchors) before the recursive composer sees them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sslcli.errors import RecipeError
from sslcli.options.validation import Key

MAX_BYTES = 256 * 1024
MAX_DEPTH = 24
MAX_NODES = 20_000

_CORE_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_SCALARS = yaml.SafeLoader("")


@dataclass
class Document:
    """A recipe's values and where each was written.

    Attributes:
        file: the name that errors show.
        values: plain dicts, lists and scalars.
        places: path of keys -> line of the value's key (or of the list's item).
    """

    file: str
    values: dict[str, Any]
    places: dict[tuple[Key, ...], str] = field(default_factory=dict)

    def place(self, path: tuple[Key, ...]) -> str:
        """``file:line`` (or the override) of ``path``, or of the nearest parent that has one."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, f"{self.file}:1")

    def texts(self, path: tuple[Key, ...]) -> list[str]:
        """Every text at or below ``path``."""
        return [item for _, item in walk(*self._at(path)) if isinstance(item, str)]

    def find(self, path: tuple[Key, ...], word: object) -> str | None:
        """The place of the key or value that is ``word`` at or below ``path``; None where there is none."""
        for found, item in walk(*self._at(path)):
            if item == word or found[-1:] == (word,):
                return self.place(found)
        return None

    def _at(self, path: tuple[Key, ...]) -> tuple[Any, tuple[Key, ...]]:
        """The value at ``path``, or at the nearest parent that there is, and where that is."""
        value: Any = self.values
        for depth, part in enumerate(path):
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return value, path[:depth]
        return value, path


def walk(value: Any, path: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], Any]]:
    """Every value at and below ``value`` with its path, parents first."""
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from walk(item, (*path, key))


def read_document(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        RecipeError: ``file:line: sentence``.
    """
    try:
        data = _read(path)
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path} ({error.strerror})", "check the name") from error
    if len(data) > MAX_BYTES:
        raise RecipeError(f"{path}:1: a recipe has at most {MAX_BYTES} bytes", "is this a recipe?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RecipeError(f"{path}:{line}: not UTF-8 text", "save the recipe as UTF-8") from error
    return parse_document(text, str(path))


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file")
    with path.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def parse_document(text: str, file: str) -> Document:
    """Parse YAML text; ``file`` is what errors call it."""
    try:
        _check_events(text, file)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise _syntax_error(error, file) from error
    document = Document(file, {})
    if node is None:
        raise RecipeError(f"{file}:1: the recipe is empty", "`sslcli recipe init` writes one")
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(
            f"{file}:{_line(node)}: a recipe is a mapping of keys to values", "see `sslcli recipe init`"
        )
    document.values = _Builder(document).build(node, ())
    return document


def parse_value(text: str) -> object:
    """The value of an override or a flag, by the same rules as in a recipe.

    Raises:
        RecipeError: not a YAML value.
    """
    return parse_document(f"value: {text}", "value").values["value"]


def _check_events(text: str, file: str) -> None:
    depth = documents = nodes = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        nodes += isinstance(event, yaml.NodeEvent)
        tag = getattr(event, "tag", None)
        if documents > 1:
            raise RecipeError(f"{file}:{line}: a second document begins", "one recipe a file")
        if depth > MAX_DEPTH:
            raise RecipeError(f"{file}:{line}: nested deeper than {MAX_DEPTH} levels", "write it flatter")
        if nodes > MAX_NODES:
            raise RecipeError(f"{file}:{line}: more than {MAX_NODES} values", "split the recipe")
        if tag not in (None, "!") and tag not in _CORE_TAGS:
            raise RecipeError(f"{file}:{line}: the tag '{tag}' is not allowed", "recipes have plain values")


class _Builder:
    """Turns nodes into values, counting them so that aliases cannot multiply without bound."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0

    def build(self, node: yaml.Node, path: tuple[Key, ...]) -> Any:
        self.count += 1
        if self.count > MAX_NODES or len(path) > MAX_DEPTH:
            raise self._error(node, "aliases repeat too much", "write the values out")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: tuple[Key, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a key should be a word")
            key = str(key_node.value)
            if key in values:
                first = self.document.place((*path, key)).rpartition(":")[2]
                raise self._error(
                    key_node, f"the key '{key}' is given twice (first on line {first})", "keep one"
                )
            self.document.places[(*path, key)] = f"{self.document.file}:{_line(key_node)}"
            values[key] = self.build(value_node, (*path, key))
        return values

    def _item(self, node: yaml.Node, path: tuple[Key, ...]) -> Any:
        self.document.places[path] = f"{self.document.file}:{_line(node)}"
        return self.build(node, path)

    def _scalar(self, node: yaml.Node) -> object:
        kind = node.tag.rpartition(":")[2]
        if kind not in ("int", "float", "bool", "null"):
            return str(node.value)  # dates and the like stay the text that was written
        try:
            return getattr(_SCALARS, f"construct_yaml_{kind}")(node)
        except ValueError as error:
            raise self._error(node, f"'{node.value}' is not a value") from error

    def _error(self, node: yaml.Node, what: str, hint: str | None = None) -> RecipeError:
        return RecipeError(f"{self.document.file}:{_line(node)}: {what}", hint)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 1


def _syntax_error(error: yaml.YAMLError, file: str) -> RecipeError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    line = mark.line + 1 if mark else 1
    if "'\\t'" in problem:
        return RecipeError(f"{file}:{line}: a tab is used to indent", "use spaces")
    return RecipeError(f"{file}:{line}: {problem}", "check the indentation and the quotes of that line")
