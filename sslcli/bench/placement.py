"""Which execution provider ran which node, and what to do when it was not the one asked for."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort

from sslcli.errors import DeviceError
from sslcli.options.common import Provider

PROVIDER_NAMES: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_OVERWRITE = "onnxruntime and onnxruntime-gpu overwrite each other, so keep only one of the two"


@dataclass(frozen=True)
class NodePlacement:
    """One executed node and the provider that ran it."""

    name: str
    op_type: str
    provider: str
    is_shape_arithmetic: bool


def require_provider(provider: Provider) -> None:
    """Raise DeviceError, with what to install, if ONNX Runtime was built without ``provider``."""
    if PROVIDER_NAMES[provider] in ort.get_available_providers():
        return
    raise DeviceError(
        f"ONNX Runtime {ort.__version__} here has no {PROVIDER_NAMES[provider]}", _how_to_install()
    )


def require_placement(placements: Sequence[NodePlacement], provider: Provider, model: str) -> None:
    """Raise DeviceError if a node ran elsewhere than on ``provider``.

    ONNX Runtime puts arithmetic on shapes (small integer tensors) on the CPU on purpose: no fall-back.
    """
    wanted = PROVIDER_NAMES[provider]
    strays = [node for node in placements if node.provider != wanted and not node.is_shape_arithmetic]
    if not strays:
        return
    named = ", ".join(f"{node.name} ({node.op_type})" for node in strays[:5])
    more = f" and {len(strays) - 5} more" if len(strays) > 5 else ""
    raise DeviceError(
        f"{len(strays)} of {len(placements)} nodes of {model} ran on {strays[0].provider} "
        f"instead of {wanted}: {named}{more}",
        "export the model without these operators, or bench it with --providers cpu",
    )


def read_placements(events: Sequence[Mapping[str, Any]]) -> tuple[NodePlacement, ...]:
    """The nodes named by an ONNX Runtime profile (its JSON events)."""
    return tuple(
        NodePlacement(
            name=str(event["name"]).removesuffix("_kernel_time"),
            op_type=str(event["args"].get("op_name", "")),
            provider=str(event["args"]["provider"]),
            is_shape_arithmetic=_is_shape_arithmetic(event["args"]),
        )
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    )


def require_session_provider(session: ort.InferenceSession, provider: Provider) -> None:
    """Raise DeviceError if ``session`` was opened on another provider than the one asked for."""
    found = session.get_providers()[0]
    if found != PROVIDER_NAMES[provider]:
        raise cannot_start(provider, f"it fell back to {found}")


def cannot_start(provider: Provider, reason: str) -> DeviceError:
    """The error for a provider that this ONNX Runtime has, but cannot use here."""
    return DeviceError(
        f"ONNX Runtime {ort.__version__} has {PROVIDER_NAMES[provider]} but could not start it ({reason})",
        "check the GPU driver and that CUDA and cuDNN of the versions it asks for are installed",
    )


def _is_shape_arithmetic(args: Mapping[str, Any]) -> bool:
    """Whether a profiled node read and wrote only small integer tensors of at most one axis."""
    # A Shape node reads the activation but touches no element of it.
    read = [] if args.get("op_name") == "Shape" else list(args.get("input_type_shape", []))
    tensors = [entry for side in (read, args.get("output_type_shape", [])) for entry in side]
    return bool(tensors) and all(
        dtype in {"int64", "int32", "bool"} and len(shape) <= 1
        for entry in tensors
        for dtype, shape in entry.items()
    )


def _how_to_install() -> str:
    both = all(_installed(name) for name in ("onnxruntime", "onnxruntime-gpu"))
    if both:
        return (
            f"both are installed, and {_OVERWRITE}: "
            "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'sslcli[gpu]'"
        )
    return f"pip uninstall onnxruntime, then pip install 'sslcli[gpu]' ({_OVERWRITE})"


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
