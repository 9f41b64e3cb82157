"""ARCH to module: built-in names, torchvision, timm and code references."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import nn

from sslcli.errors import ModelError, SslcliError, kind_of
from sslcli.models.registry import ARCHITECTURES, Architecture
from sslcli.models.scalars import typed_args
from sslcli.models.seeding import seeded
from sslcli.reference import describe, import_path, resolve

ArchKind = Literal["builtin", "torchvision", "timm", "code"]


def create(arch: str, arch_args: Mapping[str, object] | None = None, seed: int = 0) -> nn.Module:
    """Make a fresh module of an architecture.

    Args:
        arch: a built-in name, `torchvision:NAME`, `timm:NAME`, `package.module:factory` or
            `path/file.py:factory`. The last two run that code.
        arch_args: keyword arguments of its factory; text is read as a YAML scalar.
        seed: seed of the initial weights; the caller's random state is left as it was.

    Raises:
        ModelError: no such architecture, a missing package, or the factory fails.
    """
    return build(arch, typed_args(arch_args or {}), seed)


def build(arch: str, arch_args: Mapping[str, object] | None = None, seed: int = 0) -> nn.Module:
    """As :func:`create`, with the arguments taken as they are."""
    with import_path(arch), seeded(seed):
        model = _call(arch, _factory(arch), dict(arch_args or {}))
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the factory {arch} returned {kind_of(model)}, not a torch.nn.Module",
            "return the model from it",
        )
    return model


def kind(arch: str) -> ArchKind:
    """Where an architecture comes from; `code` is the only kind whose creation runs the user's code."""
    prefix, colon, _ = arch.partition(":")
    if not colon:
        return "builtin"
    if prefix in ("torchvision", "timm"):
        return prefix  # type: ignore[return-value]
    return "code"


def input_shape(arch: str) -> tuple[int, ...] | None:
    """Shape of one input of an architecture, without the batch axis; None where it is not known.

    Does not build the model. For torchvision and timm it is the size of their published weights' inputs.
    """
    match kind(arch):
        case "builtin":
            return _builtin(arch).input_shape
        case "torchvision":
            return _torchvision_shape(arch.partition(":")[2])
        case "timm":
            return _timm_shape(arch.partition(":")[2])
        case _:
            return None


def _factory(arch: str) -> Callable[..., Any]:
    match kind(arch):
        case "builtin":
            return _builtin(arch).factory
        case "torchvision":
            return _torchvision_factory(arch.partition(":")[2])
        case "timm":
            return _timm_factory(arch.partition(":")[2])
        case _:
            factory = resolve(arch)
            if not callable(factory):
                raise ModelError(f"{arch} is {kind_of(factory)}, not a factory", "name a function or a class")
            return factory  # type: ignore[no-any-return]


def _call(arch: str, factory: Callable[..., Any], arguments: dict[str, object]) -> Any:
    try:
        return factory(**arguments)
    except SslcliError:
        raise
    except Exception as error:  # a factory may raise anything
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ModelError(
            f"making {arch}({given}) failed ({describe(error)})", "check the architecture's arguments"
        ) from error


def _builtin(arch: str) -> Architecture:
    if arch not in ARCHITECTURES:
        hint = "torchvision:NAME, timm:NAME, package.module:factory and file.py:factory work as well"
        raise ModelError(f"there is no architecture {arch!r}{_nearest(arch, ARCHITECTURES)}", hint)
    return ARCHITECTURES[arch]


def _torchvision_factory(name: str) -> Callable[..., Any]:
    models = _package("torchvision", "models")
    # torchvision's own lookup folds case; the exact name keeps records unambiguous.
    names = models.list_models()
    if name not in names:
        raise ModelError(f"torchvision has no model {name!r}{_nearest(name, names)}", "check the name")

    def factory(**arguments: object) -> object:
        return models.get_model(name, **{"weights": None, **arguments})

    return factory


def _timm_factory(name: str) -> Callable[..., Any]:
    timm = _package("timm")
    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}{_nearest(name, timm.list_models())}", "check the name")

    def factory(**arguments: object) -> object:
        return timm.create_model(name, **arguments)

    return factory


def _torchvision_shape(name: str) -> tuple[int, ...] | None:
    models = _package("torchvision", "models")
    if name not in models.list_models():
        return None
    for weights in models.get_model_weights(name):
        crop = getattr(weights.transforms(), "crop_size", None)
        if crop:
            return (3, int(crop[0]), int(crop[-1]))
    return None


def _timm_shape(name: str) -> tuple[int, ...] | None:
    config = _package("timm").get_pretrained_cfg(name)
    size = getattr(config, "input_size", None)
    return tuple(int(n) for n in size) if size else None


def _package(name: str, module: str | None = None) -> Any:
    if importlib.util.find_spec(name) is None:
        raise ModelError(f"{name} is not installed", f"install the extra: pip install 'sslcli[{name}]'")
    try:
        return importlib.import_module(f"{name}.{module}" if module else name)
    except Exception as error:  # a build of it that does not fit torch may raise anything
        raise ModelError(
            f"{name} is installed but cannot be imported ({describe(error)})",
            "install a build of it that fits this torch",
        ) from error


def _nearest(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}" if close else ""
