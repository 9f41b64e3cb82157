"""Pass: the same graph under another version of the operator set."""

from __future__ import annotations

import onnx

from sslcli.errors import GraphError, UsageError
from sslcli.lowering import protos
from sslcli.lowering.clean import clean

# Attributes that newer versions added and whose value 0 means what older versions do.
_NEUTRAL_AT_ZERO = frozenset({("Reshape", "allowzero")})


def to_opset(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Bring a model to ``version`` of the default operator set.

    1. onnx's converter, where it knows the way.
    2. Else the version alone is changed, where the graph is valid under it; callers compare outputs.

    Raises:
        GraphError: neither works.
        UsageError: this build of onnx does not know the version.
    """
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise UsageError(
            f"onnx {onnx.__version__} knows no opset {version}", f"choose --opset {newest} or older"
        )
    if protos.opset(model) == version:
        return model
    try:
        return clean(onnx.version_converter.convert_version(model, version))
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        relabelled = _relabelled(model, version)
        try:
            onnx.checker.check_model(relabelled, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
            raise GraphError(
                f"the graph cannot be brought to opset {version} ({str(error).splitlines()[0]})",
                "choose another --opset",
            ) from error
        return relabelled


def _relabelled(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for entry in changed.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = version
    changed.ir_version = min(changed.ir_version, _ir_version(version))
    for node in changed.graph.node:
        kept = [a for a in node.attribute if (node.op_type, a.name) not in _NEUTRAL_AT_ZERO or a.i]
        del node.attribute[:]
        node.attribute.extend(kept)
    return changed


def _ir_version(version: int) -> int:
    return int(onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)]))
