"""Every form equals the masked dense convolution, over shapes, groups, padding and patterns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslcli.lowering import check
from sslcli.lowering.forms import candidates
from sslcli.lowering.forms.flat import dense
from sslcli.lowering.fragments import Fragment, replace_node, site_model
from sslcli.lowering.sites import ConvSite, LinearSite

OPSET = 13


def mask(weight: np.ndarray, groups: int, pattern: str, random: np.random.Generator) -> np.ndarray:
    """Zero rows, columns (per group), channels, taps or 2D kernels of a weight."""
    filters, channels = weight.shape[:2]
    taps = int(np.prod(weight.shape[2:]))
    grid = weight.reshape(groups, filters // groups, channels, taps).copy()
    if pattern in ("rows", "mixed"):
        grid[random.random(grid.shape[:2]) < 0.5] = 0
    if pattern in ("columns", "mixed"):
        dead = random.random((groups, channels, taps)) < 0.6
        grid *= ~dead[:, None]
    if pattern == "channels":
        grid *= (random.random((groups, channels)) < 0.5)[:, None, :, None]
    if pattern == "kernels":
        grid *= (random.random(grid.shape[:3]) < 0.4)[..., None]
    if pattern == "border":
        grid[..., : taps // 2] = 0
    if pattern == "one column":
        keep = np.zeros((groups, 1, channels, taps), bool)
        keep[:, :, random.integers(channels), random.integers(taps)] = True
        grid *= keep
    if pattern == "one group":
        grid[1:] = 0
        grid[:1] *= random.random((1, 1, channels, taps)) < 0.5
    if pattern == "all":
        grid[:] = 0
    return grid.reshape(weight.shape)


PATTERNS = ("rows", "columns", "mixed", "channels", "kernels", "border", "one column", "one group", "all")


@st.composite
def sites(draw: st.DrawFn) -> ConvSite:
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    filters, channels = groups * draw(st.integers(1, 9)), draw(st.integers(1, 9))
    if draw(st.booleans()) and groups > 1:
        channels = 1
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    strides = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    dilations = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    pads = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(rank))
    spatial = tuple(draw(st.integers(d * (k - 1) + 1, 9)) for k, d in zip(kernel, dilations, strict=True))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight = random.standard_normal((filters, channels, *kernel)).astype(np.float32)
    weight = mask(weight, groups, draw(st.sampled_from(PATTERNS)), random)
    bias = random.integers(0, draw(st.sampled_from([1, 3, 1000])), filters).astype(np.float32)
    return ConvSite("conv", "x", "y", weight, bias, groups, strides, pads, dilations, spatial)


def worst(site: ConvSite, fragment: Fragment, spatial: tuple[int, ...]) -> float:
    feeds = {"x": np.random.default_rng(1).standard_normal((2, site.channels, *spatial)).astype(np.float32)}
    expected = check.run(site_model(site, dense(site), OPSET), feeds)
    model = site_model(site, fragment, OPSET)
    onnx.checker.check_model(model, full_check=True)
    return check.worst_error(expected, check.run(model, feeds))


@settings(max_examples=60, deadline=None)
@given(sites())
def test_every_form_equals_the_masked_dense_convolution(site: ConvSite) -> None:
    assert site.spatial is not None
    for name, fragment in candidates(site).items():
        assert worst(site, fragment, site.spatial) < 1e-5, name


LINEAR_PATTERNS = ("rows", "columns", "mixed", "all", "one column")


@pytest.mark.parametrize("pattern", LINEAR_PATTERNS)
@pytest.mark.parametrize("bias", ["none", "distinct", "few"])
@pytest.mark.parametrize("is_matmul", [True, False])
def test_every_form_equals_the_masked_dense_product(pattern: str, bias: str, is_matmul: bool) -> None:
    random = np.random.default_rng(3)
    weight = mask(random.standard_normal((7, 11, 1)).astype(np.float32), 1, pattern, random)[..., 0]
    values = {"none": None, "distinct": np.arange(7), "few": np.arange(7) % 2}[bias]
    bias_array = None if values is None or is_matmul else values.astype(np.float32)
    site = LinearSite("fc", "x", "y", weight, bias_array, is_matmul)
    found = candidates(site)
    assert found or (bias, pattern) == ("distinct", "rows")
    shape = (2, 3, 11) if is_matmul else (4, 11)
    x = random.standard_normal(shape).astype(np.float32)
    expected = x @ weight.T + (0 if bias_array is None else bias_array)
    for name, fragment in found.items():
        graph = onnx.helper.make_graph(
            list(fragment.nodes),
            "fc",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [*shape[:-1], 7])],
            [onnx.numpy_helper.from_array(array, key) for key, array in fragment.constants.items()],
        )
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8
        )
        onnx.checker.check_model(model, full_check=True)
        assert check.relative_error(expected, check.run(model, {"x": x})[0]) < 1e-5, name


def site_of(weight: np.ndarray, groups: int = 1, spatial: tuple[int, ...] | None = (9, 9)) -> ConvSite:
    rank = weight.ndim - 2
    bias = np.zeros(len(weight), np.float32)
    return ConvSite(
        "conv", "x", "y", weight, bias, groups, (1,) * rank, ((1, 1),) * rank, (1,) * rank, spatial
    )


def test_each_form_applies_to_what_it_is_for() -> None:
    random = np.random.default_rng(0)
    columns = mask(random.standard_normal((16, 8, 3, 3)).astype(np.float32), 1, "mixed", random)
    found = candidates(site_of(columns))
    assert {"compact", "shift", "shift-pad", "row-shift", "per-tap", "im2col"} <= set(found)
    grouped = mask(random.standard_normal((16, 8, 3, 3)).astype(np.float32), 2, "channels", random)
    assert "separate" in candidates(site_of(grouped, 2))
    line = mask(random.standard_normal((16, 8, 3)).astype(np.float32), 1, "mixed", random)
    assert {"flat", "flat-shift"} <= set(candidates(site_of(line, 1, (9,))))


def test_filters_that_read_disjoint_channels_become_two_convolutions() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((6, 8, 3, 3)).astype(np.float32)
    order = random.permutation(6)
    weight[order[:3], :4] = 0
    weight[order[3:], 4:] = 0
    fragment = candidates(site_of(weight))["separate-2"]
    convs = [node for node in fragment.nodes if node.op_type == "Conv"]
    assert [fragment.constants[node.input[1]].shape for node in convs] == [(3, 4, 3, 3)] * 2


def test_dead_taps_at_the_border_crop_the_kernel_and_its_padding() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 4, 3, 3)).astype(np.float32)
    weight[:, :, 0] = 0
    weight[:, :, :, 2] = 0
    (node,) = candidates(site_of(weight))["compact"].nodes
    attributes = {found.name: onnx.helper.get_attribute_value(found) for found in node.attribute}
    assert attributes["kernel_shape"] == [2, 2]
    assert attributes["pads"] == [0, 1, 1, 0]


def test_an_image_of_unknown_size_is_lowered_where_the_size_does_not_matter() -> None:
    random = np.random.default_rng(0)
    weight = mask(random.standard_normal((16, 8, 3, 3)).astype(np.float32), 1, "mixed", random)
    site = site_of(weight, 1, None)
    found = candidates(site)
    assert {"shift", "compact"} <= set(found)
    assert not {"row-shift", "per-tap", "im2col"} & set(found)
    for name, fragment in found.items():
        for spatial in ((5, 7), (12, 4)):
            assert worst(site, fragment, spatial) < 1e-5, name


def test_many_biases_of_dead_filters_are_added_after_one_gather() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 16, 3, 3)).astype(np.float32)
    weight[:40] = 0
    site = replace(site_of(weight), bias=np.arange(64).astype(np.float32))
    fragment = candidates(site)["compact"]
    assert [node.op_type for node in fragment.nodes] == ["Conv", "Gather", "Add"]
    assert fragment.constants[fragment.nodes[0].input[1]].shape[0] == 25
    assert worst(site, fragment, (9, 9)) < 1e-5


def test_an_activation_goes_before_the_gather_that_restores_filters() -> None:
    weight = np.random.default_rng(0).standard_normal((32, 16, 3, 3)).astype(np.float32)
    weight[::2] = 0
    site = site_of(weight)
    whole = dense(replace(site, name="given"))
    relu = onnx.helper.make_node("Relu", ["y"], ["z"], name="relu")
    model = site_model(site, Fragment((*whole.nodes, relu), whole.constants), OPSET)
    model.graph.output[0].name = "z"
    feeds = check.fresh_feeds(model, batch_size=2)
    expected = check.run(model, feeds)
    lowered = replace_node(model, whole.nodes[0].name, candidates(site)["compact"])
    assert [node.op_type for node in lowered.graph.node] == ["Conv", "Relu", "Gather"]
    assert check.worst_error(expected, check.run(lowered, feeds)) < 1e-5


CHUNKED = ("shift-128", "shift-192-pad", "row-shift-128", "row-shift-192-pad")


@pytest.mark.parametrize("pattern", ["columns", "mixed"])
@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (1, 2), (2, 1)])
def test_forms_that_work_in_chunks_equal_it_too(pattern: str, groups: int, stride: int) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((20, 128, 3, 3)).astype(np.float32)
    weight = mask(weight, groups, pattern, random)
    bias = random.standard_normal(20).astype(np.float32)
    site = replace(site_of(weight, groups), bias=bias, strides=(stride, stride))
    found = candidates(site)
    assert set(CHUNKED) <= set(found)
    for name in CHUNKED:
        depthwise = [
            node
            for node in found[name].nodes
            if node.op_type == "Conv" and found[name].constants[node.input[1]].shape[2:] != (1, 1)
        ]
        assert len(depthwise) > groups, name
        assert worst(site, found[name], (9, 9)) < 1e-5, name
