"""Every form equals the masked dense convolution, over shapes, groups, padding and patterns."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from sslcli.lowering import check
from sslcli.lowering.forms import candidates
from sslcli.lowering.fragments import Builder, Fragment, site_model
from sslcli.lowering.sites import ConvSite

OPSET = 13


def dense(site: ConvSite) -> Fragment:
    builder = Builder(site.name)
    builder.conv(
        site.input,
        site.weight,
        site.bias,
        strides=site.strides,
        pads=site.pads,
        dilations=site.dilations,
        groups=site.groups,
    )
    return builder.finish(site.output)


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
    bias = random.integers(0, 3, filters).astype(np.float32) * draw(st.sampled_from([0, 1]))
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
