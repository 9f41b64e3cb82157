"""The operators that a `.pt2` may name.

torch finds operators by walking attributes from the name in the file (`torch.hub.load` is one walk away), and
among the real operators are some that open files. So a name must be spelled as an operator of ATen, stand in
the list below, and be what the dispatcher knows under it.
"""

from __future__ import annotations

import re

import torch

from sslcli.errors import ModelError

_ATEN = re.compile(r"torch\.ops\.(aten|prims)\.([A-Za-z_]\w{0,80})\.(\w{1,60})", re.ASCII)

# Arithmetic on sizes.
_SYMBOLIC_NAMES = """
_operator.add _operator.sub _operator.mul _operator.floordiv _operator.truediv _operator.mod _operator.pow
_operator.neg _operator.eq _operator.ne _operator.lt _operator.le _operator.gt _operator.ge _operator.and_
_operator.or_ _operator.getitem math.trunc math.ceil math.floor
torch.sym_int torch.sym_float torch.sym_max torch.sym_min torch.sym_not torch.sym_ite torch.sym_sqrt
"""

# `relu` stands for `relu_` as well.
_ATEN_NAMES = """
conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution _convolution linear
addmm addmv addbmm baddbmm bmm mm mv matmul dot einsum bilinear outer ger inner tensordot vdot kron
linalg_vector_norm linalg_norm linalg_matrix_norm linalg_multi_dot linalg_cross chain_matmul
scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
_scaled_dot_product_efficient_attention _scaled_dot_product_attention_math _native_multi_head_attention
embedding embedding_bag one_hot batch_norm native_batch_norm _native_batch_norm_legit
_native_batch_norm_legit_no_training _native_batch_norm_legit_functional cudnn_batch_norm instance_norm
layer_norm native_layer_norm group_norm native_group_norm rms_norm _fused_rms_norm _weight_norm
_weight_norm_interface norm_except_dim local_response_norm normalize norm renorm frobenius_norm nuclear_norm
dropout native_dropout alpha_dropout feature_dropout feature_alpha_dropout rrelu rrelu_with_noise max_pool1d
max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices avg_pool1d
avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d
_adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d
fractional_max_pool3d max_unpool2d max_unpool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d
_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d
upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
grid_sampler grid_sampler_2d grid_sampler_3d affine_grid_generator im2col col2im pixel_shuffle
pixel_unshuffle channel_shuffle native_channel_shuffle relu relu6 leaky_relu prelu elu selu celu gelu silu
mish hardtanh hardswish hardsigmoid sigmoid log_sigmoid log_sigmoid_forward tanh softplus softsign
softshrink hardshrink tanhshrink threshold glu softmax _softmax _safe_softmax log_softmax _log_softmax
logsumexp softmin add sub mul div true_divide floor_divide divide multiply subtract rsub remainder fmod pow
float_power square sqrt rsqrt reciprocal exp exp2 expm1 log log2 log10 log1p logaddexp logaddexp2 abs
absolute neg negative sign sgn sin cos tan asin acos atan atan2 arctan2 sinh cosh asinh acosh atanh erf erfc
erfinv ceil floor round trunc frac fix clamp clamp_min clamp_max clip maximum minimum fmax fmin lerp addcmul
addcdiv hypot nan_to_num nextafter heaviside copysign xlogy special_xlog1py special_expit special_logit
logit i0 lgamma digamma polygamma deg2rad rad2deg positive ldexp gcd lcm cross special_erf special_ndtr
special_log_softmax special_softmax eq ne lt le gt ge greater greater_equal less less_equal equal not_equal
isnan isinf isfinite isclose isin logical_and logical_or logical_not logical_xor bitwise_and bitwise_or
bitwise_not bitwise_xor bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__ __lshift__ __rshift__
where masked_fill masked_scatter masked_select nonzero nonzero_static sum mean amax amin max min prod var
std var_mean std_mean argmax argmin all any cumsum cumprod cummax cummin logcumsumexp median nanmedian
nansum nanmean mode count_nonzero aminmax topk sort argsort kthvalue msort unique unique_consecutive
_unique2 unique_dim bincount histc quantile nanquantile dist cdist _cdist_forward pairwise_distance
cosine_similarity diff trapezoid cumulative_trapezoid searchsorted bucketize view _unsafe_view reshape
view_as reshape_as flatten unflatten squeeze unsqueeze transpose permute t T mT numpy_T movedim moveaxis
swapaxes swapdims expand expand_as repeat repeat_interleave tile broadcast_to broadcast_tensors contiguous
clone alias detach lift_fresh lift_fresh_copy lift cat concat concatenate stack hstack vstack dstack
column_stack row_stack split split_with_sizes tensor_split hsplit vsplit dsplit chunk unbind select slice
narrow narrow_copy index index_select index_put _unsafe_index _unsafe_index_put index_add index_copy
index_fill gather scatter scatter_add scatter_reduce take take_along_dim select_scatter slice_scatter
diagonal_scatter as_strided as_strided_copy unfold flip fliplr flipud roll rot90 pad constant_pad_nd
_pad_enum _pad_circular reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
replication_pad2d replication_pad3d diag diagonal diag_embed tril triu tril_indices triu_indices trace
view_copy permute_copy transpose_copy expand_copy squeeze_copy unsqueeze_copy t_copy select_copy slice_copy
split_copy split_with_sizes_copy unbind_copy unfold_copy alias_copy detach_copy diagonal_copy _reshape_alias
_reshape_copy meshgrid cartesian_prod combinations atleast_1d atleast_2d atleast_3d ravel block_diag copy to
_to_copy type_as float half double int long bool cpu zero fill real imag view_as_real view_as_complex
complex polar conj _conj resolve_conj resolve_neg angle zeros ones full empty zeros_like ones_like full_like
empty_like new_zeros new_ones new_full new_empty new_empty_strided empty_strided empty_permuted arange
linspace logspace eye scalar_tensor rand_like randn_like randint_like rand randn randint randperm bernoulli
normal uniform normal_functional multinomial hann_window hamming_window blackman_window kaiser_window
bartlett_window stft istft fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2
fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_fftshift fft_ifftshift _fft_r2c _fft_c2r _fft_c2c lstm gru
rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell sym_size sym_numel sym_stride
sym_storage_offset sym_constrain_range sym_constrain_range_for_size sym_is_contiguous item
_local_scalar_dense _assert_scalar _assert_async _assert_tensor_metadata _functional_assert_async
_functional_assert_scalar numel size mse_loss l1_loss smooth_l1_loss huber_loss nll_loss nll_loss_forward
nll_loss2d nll_loss2d_forward nll_loss_nd cross_entropy_loss binary_cross_entropy
binary_cross_entropy_with_logits kl_div linalg_inv inverse linalg_det det linalg_solve cholesky
linalg_cholesky linalg_qr linalg_eigh linalg_svd linalg_matrix_power matrix_exp pinverse linalg_pinv
convert_element_type broadcast_in_dim iota
"""

_SYMBOLIC = frozenset(_SYMBOLIC_NAMES.split())
_LISTED = frozenset(_ATEN_NAMES.split())


def check_operator(target: str, where: str) -> str:
    """The operator's name, if it is one of the list.

    Raises:
        ModelError: it is not.
    """
    if target in _SYMBOLIC:
        return target
    match = _ATEN.fullmatch(target)
    if match and _listed(match[2]) and _known(*match.groups()):
        return target
    if target.startswith("torch.ops.higher_order."):
        raise ModelError(
            f"{where} holds {target[:80]}, a part of the graph that runs under other rules",
            "export the model without gradient modes, autocast or control flow inside forward()",
        )
    raise ModelError(
        f"{where} names the operator {target[:80]!r}, which is not one of those that may be loaded",
        "use the model's class and a state dict, or open an issue if the operator is harmless",
    )


def _listed(name: str) -> bool:
    return name in _LISTED or (name.endswith("_") and not name.endswith("__") and name[:-1] in _LISTED)


def _known(namespace: str, name: str, overload: str) -> bool:
    packet = getattr(getattr(torch.ops, namespace), name, None)
    if packet is None or overload not in packet.overloads():
        return False
    return isinstance(getattr(packet, overload), torch._ops.OpOverload)
