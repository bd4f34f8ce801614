"""Convolution by the trilinear form: against JAX's own convolution, which is the same function."""

import os
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.test_util import check_grads

import fnn
import fnn.functional as F
from fnn.kernels.conv import Form
from fnn.kernels.conv.form import Extent
from fnn.kernels.conv.rule import choose

CASES = {  # the function, x, weight, options: one or more of each algorithm
    "pixels": ("conv2d", (2, 8, 6, 5), (4, 8, 1, 1), {"stride": 2, "padding": 1}),
    "pixels, large": ("conv2d", (2, 8, 20, 20), (4, 8, 1, 1), {}),
    "depthwise": ("conv2d", (2, 6, 7, 9), (6, 1, 3, 3), {"padding": 1, "groups": 6}),
    "depthwise, strided": ("conv2d", (3, 6, 7, 9), (12, 1, 3, 2), {"padding": (2, 0), "stride": (2, 3), "groups": 6}),
    "depthwise, large": ("conv2d", (1, 10, 14, 15), (10, 1, 12, 11), {"padding": 5, "groups": 10}),
    "depthwise of seven": ("conv2d", (3, 6, 9, 11), (12, 1, 7, 5), {"padding": (3, 1), "groups": 6, "dilation": (1, 2)}),
    "stride of one axis": ("conv2d", (1, 3, 40, 41), (16, 3, 11, 5), {"padding": 3, "stride": (1, 2)}),
    "depthwise, dilated": ("conv1d", (2, 4, 20), (4, 1, 3), {"dilation": 3, "groups": 4, "padding": "same"}),
    "small groups": ("conv3d", (2, 8, 4, 5, 4), (4, 2, 2, 2, 3), {"groups": 4, "stride": (1, 2, 1)}),
    "a few large groups": ("conv2d", (2, 32, 6, 6), (32, 16, 3, 3), {"groups": 2, "padding": 1}),
    "many large groups": ("conv2d", (2, 160, 5, 5), (160, 16, 3, 3), {"groups": 10, "padding": 1, "stride": 2}),
    "many large groups, dilated": ("conv2d", (1, 160, 7, 7), (160, 16, 3, 3), {"groups": 10, "dilation": 2}),
    "minimal filtering": ("conv2d", (2, 32, 30, 29), (32, 32, 3, 3), {"padding": 1}),
    "minimal filtering in groups": ("conv2d", (2, 32, 24, 23), (32, 16, 3, 3), {"padding": 1, "groups": 2}),
    "minimal filtering of five": ("conv2d", (2, 32, 42, 40), (32, 32, 5, 3), {"padding": (2, 0)}),
    "minimal filtering of seven": ("conv2d", (2, 3, 40, 44), (64, 3, 7, 7), {"padding": 3}),
    "minimal filtering over a volume": ("conv3d", (1, 16, 12, 13, 14), (16, 16, 3, 3, 3), {"padding": 1}),
    "stem": ("conv2d", (2, 3, 21, 23), (16, 3, 7, 7), {"padding": 3, "stride": 2}),
    "strided": ("conv2d", (2, 4, 60, 60), (8, 4, 3, 3), {"padding": 1, "stride": 2}),
    "patches": ("conv2d", (2, 3, 64, 72), (5, 3, 4, 4), {"stride": 4}),
    "patches and columns": ("conv3d", (2, 5, 6, 7, 8), (6, 5, 3, 2, 3), {"stride": (2, 1, 2), "padding": 1}),
    "few channels": ("conv2d", (2, 3, 10, 11), (16, 3, 3, 3), {"stride": 2, "padding": 1}),
    "few outputs": ("conv2d", (2, 16, 9, 10), (3, 16, 3, 3), {"padding": (1, 2)}),
    "whole": ("conv2d", (2, 3, 4, 5), (6, 3, 4, 5), {}),
    "stock": ("conv1d", (2, 3, 9), (4, 3, 3), {"dilation": 2}),
    "transposed": ("conv_transpose2d", (2, 8, 5, 6), (8, 4, 4, 4), {"stride": 2, "padding": 1}),
    "transposed, longer": ("conv_transpose1d", (2, 4, 7), (4, 6, 3), {"stride": 3, "output_padding": 2, "dilation": 2}),
    "transposed, in groups": ("conv_transpose2d", (2, 8, 5, 6), (8, 2, 3, 3), {"stride": 2, "padding": 1, "groups": 4}),
    "transposed patches": ("conv_transpose2d", (2, 8, 5, 6), (8, 4, 2, 2), {"stride": 2}),
}


def _operands(name, dtype=np.float32, seed=0):
    _, x, w, _ = CASES[name]
    draw = np.random.default_rng(seed)
    scale = 1 / np.sqrt(np.prod(w[1:]))
    return jnp.asarray(draw.standard_normal(x), dtype), jnp.asarray(draw.standard_normal(w) * scale, dtype)


def _convolve(name):
    function, _, _, options = CASES[name]
    return lambda x, w: getattr(F, function)(x, w, **options)


def _derivatives(f, x, w, tangents, cotangent):
    """Value, both gradients, the tangent, the gradient of a gradient, and the tangent of a gradient."""
    y, transpose = jax.vjp(f, x, w)
    gradients = transpose(cotangent(y))

    def second(x, w):
        return sum(jnp.vdot(t, g) for t, g in zip(tangents, jax.vjp(f, x, w)[1](cotangent(y)), strict=True))

    mixed = jax.jvp(lambda x, w: jax.vjp(f, x, w)[1](cotangent(y)), (x, w), tangents)[1]
    return y, gradients, jax.jvp(f, (x, w), tangents)[1], jax.grad(second, (0, 1))(x, w), mixed


def _assert_close(got, expected, bound):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(a - b).max() <= bound * max(np.abs(b).max(), 1e-30)


@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives_of_both_orders_and_modes_are_those_of_the_stock_form(name):
    x, w = _operands(name)
    tangents = _operands(name, seed=1)
    run = jax.jit(
        lambda x, w: _derivatives(_convolve(name), x, w, tangents, lambda y: jnp.cos(jnp.arange(y.size)).reshape(y.shape))
    )
    got = run(x, w)
    with fnn.plain_kernels():
        expected = run(x, w)
    _assert_close(got, expected, 5e-5)


@pytest.mark.parametrize(
    "name", ["pixels", "depthwise, strided", "small groups", "minimal filtering", "strided", "transposed, in groups"]
)
@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0)])
def test_vmap_of_values_and_of_gradients_in_each_operand(name, mapped):
    x, w = _operands(name)
    x, w = (jnp.stack([z, z[..., ::-1], 2 * z]) if axis == 0 else z for z, axis in zip((x, w), mapped, strict=True))

    def run(x, w):
        y, transpose = jax.vjp(_convolve(name), x, w)
        return y, transpose(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    got = jax.jit(jax.vmap(run, mapped))(x, w)
    one = jax.jit(run)
    each = [one(*(z if axis is None else z[i] for z, axis in zip((x, w), mapped, strict=True))) for i in range(3)]
    _assert_close(got, jax.tree.map(lambda *parts: jnp.stack(parts), *each), 5e-5)


_sizes = st.integers(1, 3)


@hypothesis.settings(max_examples=15)
@hypothesis.given(
    st.tuples(_sizes, _sizes),
    st.tuples(_sizes, _sizes),
    st.tuples(_sizes, _sizes),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    st.sampled_from([(1, 1, 1), (1, 3, 16), (3, 1, 2), (2, 2, 3), (2, 16, 8), (12, 16, 1)]),
    st.booleans(),
)
def test_random_forms_agree_with_torch(kernel, stride, dilation, padding, more, channels, transposed):
    groups, into, out = channels
    size = [max(1, d * (k - 1) + 1 - 2 * p) + m for d, k, p, m in zip(dilation, kernel, padding, more, strict=True)]
    draw = np.random.default_rng(0)
    x = draw.standard_normal((2, groups * into, *size), np.float32)
    shape = (groups * into, out) if transposed else (groups * out, into)
    w = draw.standard_normal((*shape, *kernel), np.float32)
    name = "conv_transpose2d" if transposed else "conv2d"
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    tensors = [torch.tensor(z, requires_grad=True) for z in (x, w)]
    try:
        expected = getattr(torch.nn.functional, name)(*tensors, **options)
    except RuntimeError:
        hypothesis.assume(False)
    cotangent = draw.standard_normal(expected.shape, np.float32)
    gradients = torch.autograd.grad(expected, tensors, torch.tensor(cotangent))
    y, transpose = jax.jit(lambda x, w: jax.vjp(lambda *z: getattr(F, name)(*z, **options), x, w))(x, w)
    for a, b in zip((y, *transpose(cotangent)), (expected.detach(), *gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * max(1.0, float(b.abs().max())) if b.numel() else 0)


@pytest.mark.parametrize(
    "name",
    ["minimal filtering", "minimal filtering of five", "minimal filtering of seven", "minimal filtering over a volume", "stem"],
)
def test_minimal_filtering_is_exact_to_its_documented_bound(name):
    x, w = _operands(name)
    f = _convolve(name)
    y, transpose = jax.jit(lambda x, w: jax.vjp(f, x, w))(x, w)
    cotangent = jnp.asarray(np.random.default_rng(2).standard_normal(y.shape), jnp.float32)
    with jax.enable_x64(True), fnn.plain_kernels():
        exact = [jnp.asarray(z, jnp.float64) for z in (x, w)]
        expected, back = jax.vjp(f, *exact)
        expected = expected, *back(jnp.asarray(cotangent, jnp.float64))
        # What rounding of each product and sum amounts to at most, for one operation: the sum of magnitudes.
        scale, back = jax.vjp(f, *map(jnp.abs, exact))
        scale = scale, *back(jnp.abs(jnp.asarray(cotangent, jnp.float64)))
    for got, value, magnitude in zip((y, *transpose(cotangent)), expected, scale, strict=True):
        error = np.abs(np.asarray(got, np.float64) - np.asarray(value))
        assert (error <= 30 * np.finfo(np.float32).eps * np.asarray(magnitude).max()).all()


@pytest.mark.parametrize("name", ["minimal filtering", "depthwise", "small groups", "pixels", "transposed"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bits_are_summed_in_float32(name, dtype):
    x, w = _operands(name)
    x, w = x.astype(dtype), w.astype(dtype)
    f = _convolve(name)
    got = jax.jit(lambda x, w: jax.vjp(f, x, w)[1](f(x, w)))(x, w)
    wide = jax.jit(lambda x, w: jax.vjp(f, x, w)[1](f(x, w).astype(dtype).astype(jnp.float32)))(
        x.astype(jnp.float32), w.astype(jnp.float32)
    )
    for a, b in zip(got, wide, strict=True):
        assert a.dtype == dtype
        _assert_close(a.astype(jnp.float32), b, float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("name", ["minimal filtering", "depthwise", "pixels", "transposed, in groups"])
def test_float64(name):
    with jax.enable_x64(True):
        x, w = _operands(name, np.float64)
        f = _convolve(name)
        got = jax.jit(f)(x, w)
        assert got.dtype == jnp.float64
        with fnn.plain_kernels():
            _assert_close(got, jax.jit(f)(x, w), 1e-12)


@pytest.mark.parametrize(
    "name", ["minimal filtering", "minimal filtering in groups", "stem", "depthwise", "pixels", "few outputs", "transposed"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_reach_what_they_reach_in_the_stock_form(name, value):
    x, w = _operands(name)
    x = x.at[0, 1, 2].set(value)
    run = jax.jit(_convolve(name))
    got = run(x, w)
    with fnn.plain_kernels():
        expected = run(x, w)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_what_the_rule_leaves_to_the_stock_form_compiles_to_the_stock_program():
    x, w = _operands("stock")

    def stock(x, w):
        return jax.lax.conv_general_dilated(x, w, (1,), [(0, 0)], rhs_dilation=(2,))

    def program(f):
        def both(x, w):
            y, transpose = jax.vjp(f, x, w)
            return y, transpose(y)

        return jax.jit(both).lower(x, w).as_text()

    assert program(lambda x, w: F.conv1d(x, w, dilation=2)) == program(stock)


def test_plain_kernels_are_the_stock_program_and_are_told_apart():
    x, w = _operands("depthwise")
    run = jax.jit(_convolve("depthwise"))
    fast = run.lower(x, w).as_text()
    with fnn.plain_kernels():
        assert "convolution" in run.lower(x, w).as_text()
    assert "stablehlo.convolution" not in fast
    assert run.lower(x, w).as_text() == fast


def test_a_form_that_a_model_has_many_times_is_lowered_once():
    x, w = _operands("minimal filtering")
    f = _convolve("minimal filtering")
    once, thrice = (
        jax.jit(lambda x, w, n=n: [f(x, w * (i + 1)) for i in range(n)]).lower(x, w).as_text().count("dot_general")
        for n in (1, 3)
    )
    assert once == thrice > 0


def test_padding_beyond_the_kernel_has_the_right_gradient():
    """XLA:CPU of jaxlib 0.10.2 reads beyond an input that is cut in front and padded behind, which JAX's derivative does."""
    x, w = np.random.default_rng(0).standard_normal((2, 4, 7, 6), np.float32), np.ones((8, 4, 1, 1), np.float32)
    tensors = [torch.tensor(z, requires_grad=True) for z in (x, w)]
    expected = torch.nn.functional.conv2d(*tensors, stride=2, padding=3)
    gradients = torch.autograd.grad(expected.square().sum(), tensors)
    got = jax.grad(lambda x, w: jnp.square(F.conv2d(x, w, stride=2, padding=3)).sum(), (0, 1))(x, w)
    for a, b in zip(got, gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["minimal filtering", "stem", "depthwise, strided", "many large groups", "pixels", "transposed"]
)
def test_forward_and_gradient_export_for_all_platforms(name):
    x, w = _operands(name)
    f = _convolve(name)

    def run(x, w):
        y, transpose = jax.vjp(f, x, w)
        return y, transpose(y)

    exported = jax.export.export(jax.jit(run), platforms=["cpu", "cuda", "tpu"])(x, w)
    _assert_close(exported.call(x, w), jax.jit(run)(x, w), 1e-6)


def test_checkpoint_and_finite_differences():
    with jax.enable_x64(True):
        x, w = _operands("depthwise, strided", np.float64)
        check_grads(jax.checkpoint(_convolve("depthwise, strided")), (x, w), order=2, rtol=1e-6)


def test_integers_are_the_stock_forms():
    form = Form((8, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4)
    assert choose("y", form, Extent(2, 4, 4), jnp.dtype(jnp.int32)) is None
    assert choose("y", form, Extent(2, 4, 4), jnp.dtype(jnp.float32)) is not None


@pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices: the test below starts a process that has them")
@pytest.mark.parametrize("name", ["minimal filtering", "depthwise", "small groups", "pixels", "transposed"])
def test_divided_among_devices(name):
    x, w = _operands(name)
    x = jnp.concatenate([x, 2 * x, x - 1, -x])
    f = _convolve(name)
    cotangent = jnp.cos(jnp.arange(f(x, w).size, dtype=x.dtype)).reshape(f(x, w).shape)

    def gradients(x, w, cotangent):
        y, transpose = jax.vjp(f, x, w)
        return y, *transpose(cotangent)

    expected = jax.jit(gradients)(x, w, cotangent)
    divided, whole = jax.P("n"), jax.P()
    mesh = jax.make_mesh((4,), ("n",), (jax.sharding.AxisType.Auto,))
    for check in (True, False):

        def local(x, w, cotangent, check=check):
            y, d_x, d_w = gradients(x, w, cotangent)
            return y, d_x, d_w if check else jax.lax.psum(d_w, "n")  # checked, it is summed by JAX

        sharded = jax.shard_map(
            local, mesh=mesh, check_vma=check, in_specs=(divided, whole, divided), out_specs=(divided, divided, whole)
        )
        _assert_close(jax.jit(sharded)(x, w, cotangent), expected, 5e-5)
    for kind in (mesh, jax.make_mesh((4,), ("n",), (jax.sharding.AxisType.Explicit,))):
        with jax.set_mesh(kind):
            placed = [jax.device_put(z, jax.NamedSharding(kind, divided)) for z in (x, cotangent)]
            _assert_close(jax.jit(gradients)(placed[0], w, placed[1]), expected, 5e-5)


def test_convolution_on_four_devices():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__, "-k", "divided_among"]
    run = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True, check=False)
    assert "5 passed" in run.stdout, run.stdout
