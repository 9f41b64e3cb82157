"""What kind of operation each ATen op is, and its arguments by name.

``KIND`` maps an op's name (without overload) to its kind; each pass of the engine (slots, known values,
needs, rewriting, counting) has one function per kind. An op that is in no row is unknown: its operands stay
whole.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

_TABLE = {
    # one output element from the elements at the same place of the operands
    "elementwise": """
        abs absolute acos acosh add addcdiv addcmul alias alpha_dropout asin asinh atan atan2 atanh
        bitwise_and bitwise_not bitwise_or bitwise_xor ceil celu clamp clamp_max clamp_min clip clone
        contiguous copysign cos cosh deg2rad detach div divide dropout elu eq erf erfc exp exp2 expm1
        feature_dropout feature_alpha_dropout floor floor_divide fmod frac full_like ge gelu greater gt
        hardshrink hardsigmoid hardswish hardtanh hypot isfinite isinf isnan le leaky_relu lerp less
        lgamma log log10 log1p log2 log_sigmoid logical_and logical_not logical_or logical_xor logit lt
        masked_fill maximum minimum mish mul multiply nan_to_num ne neg negative ones_like positive pow
        rad2deg reciprocal relu relu6 remainder round rrelu rsqrt rsub selu sgn sigmoid sign signbit silu
        sin sinc sinh softplus softshrink special_erf special_expit sqrt square sub subtract tan tanh
        threshold to _to_copy true_divide trunc type_as where xlogy zeros_like float half double
    """,
    # the elements of the operand at other places: the op itself says where
    "shape": """
        adjoint channel_shuffle chunk diagonal expand expand_as flatten flip fliplr flipud index_select
        matrix_H mH mT moveaxis movedim narrow numpy_T permute pixel_shuffle pixel_unshuffle
        native_channel_shuffle repeat repeat_interleave reshape reshape_as roll rot90 select slice split
        split_with_sizes squeeze swapaxes swapdims t take_along_dim tensor_split tile transpose unbind
        unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze view _unsafe_view
        view_as _reshape_alias T
    """,
    # tensors from nothing: zeros to concatenate or pad with
    "create": "zeros ones full new_zeros new_ones new_full",
    "index": "index gather",
    "cat": "cat concat concatenate",
    "stack": "stack",
    "scatter": "slice_scatter select_scatter",
    "pad": "pad constant_pad_nd",
    "conv": "conv1d conv2d conv3d convolution",
    "conv_transpose": "conv_transpose1d conv_transpose2d conv_transpose3d",
    "linear": "linear",
    "matmul": "matmul mm bmm mv dot",
    "addmm": "addmm baddbmm",
    "einsum": "einsum",
    "attention": "scaled_dot_product_attention",
    "batch_norm": "batch_norm _native_batch_norm_legit_no_training",
    "instance_norm": "instance_norm",
    "group_norm": "group_norm",
    "layer_norm": "layer_norm rms_norm",
    "weight_norm": "_weight_norm",
    # window or resampling over the trailing axes, channel by channel
    "window": """
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
        adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d
        max_pool2d_with_indices max_pool3d_with_indices upsample_bicubic2d upsample_bilinear2d
        upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
        _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
        _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d reflection_pad3d
        replication_pad1d replication_pad2d replication_pad3d
    """,
    "unfold": "im2col",
    # mixes along one axis and keeps it
    "along": "softmax log_softmax _softmax _log_softmax cumsum cumprod sort argsort logcumsumexp",
    # folds axes away
    "reduce": """
        sum mean amax amin var std prod any all logsumexp max min median argmax argmin norm
        linalg_vector_norm count_nonzero var_mean nanmean nansum
    """,
    "embedding": "embedding",
    "prelu": "prelu",
}

KIND: dict[str, str] = {name: kind for kind, names in _TABLE.items() for name in names.split()}


def op_name(node: fx.Node) -> str:
    """The op's name without namespace and overload: 'conv2d'; for getitem and arithmetic their own names."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(getattr(node.target, "__name__", node.target))
    return str(schema.name).partition("::")[2]


def kind_of(node: fx.Node) -> str:
    """The kind of a call node, 'unknown' where the table does not say."""
    if isinstance(node.target, torch._ops.OpOverload):
        if node.target.namespace != "aten":
            return "unknown"
        return KIND.get(op_name(node), "unknown")
    return "getitem" if node.target is operator.getitem else "scalar"


def bind(node: fx.Node) -> dict[str, Any]:
    """Arguments of an ATen node by the names of its schema, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    values = {}
    for position, argument in enumerate(schema.arguments):
        if position < len(node.args):
            values[argument.name] = node.args[position]
        elif argument.name in node.kwargs:
            values[argument.name] = node.kwargs[argument.name]
        elif argument.has_default_value():
            values[argument.name] = argument.default_value
        else:
            values[argument.name] = None
    return values


def hint(value: Any) -> Any:
    """A concrete integer for a size that may be symbolic (the example's)."""
    if isinstance(value, torch.SymInt):
        return int(value.node.hint)
    return value


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The example's concrete shape of a node with one tensor value."""
    return tuple(int(hint(size)) for size in node.meta["val"].shape)


def is_tensor(node: Any) -> bool:
    """Whether an argument is a node with one tensor value."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)


def layer_of(node: fx.Node) -> str:
    """The dotted path of the module that a node was traced in, '' for the network itself."""
    stack = node.meta.get("nn_module_stack") or {}
    for path, _ in reversed(list(stack.values())):
        if not str(path).startswith("_empty"):
            return str(path).removeprefix("L['self'].").removeprefix("L__self___")
    return ""


def where(node: fx.Node) -> str:
    """An op and the layer it stands in, for reasons: 'softmax in encoder.attention'."""
    layer = layer_of(node)
    return f"{op_name(node)} in {layer}" if layer else op_name(node)


def factors(node: fx.Node) -> tuple[Any, Any]:
    """The two matrices that matmul, mm, bmm, addmm or baddbmm multiply."""
    if kind_of(node) == "matmul":
        return node.args[0], node.args[1]
    arguments = bind(node)
    if "mat1" in arguments:
        return arguments["mat1"], arguments["mat2"]
    return arguments["batch1"], arguments["batch2"]
