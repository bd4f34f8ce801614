"""Pooling and resizing by slices are those by stock operations: all derivatives, under all transformations."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from oracle import assert_agree, normal, torch

import fnn
import fnn.functional as F

X = normal(2, 3, 12, 11)
POOLS = {
    "overlapping maximum": partial(F.max_pool2d, kernel_size=3, stride=2, padding=1),
    "maximum of blocks": partial(F.max_pool2d, kernel_size=(6, 5), stride=(6, 5)),
    "uneven maximum": partial(F.adaptive_max_pool2d, output_size=(5, 3)),
    "maximum of all": partial(F.adaptive_max_pool2d, output_size=1),
    "overlapping mean": partial(F.avg_pool2d, kernel_size=3, stride=2, padding=1, count_include_pad=False),
    "mean of blocks": partial(F.avg_pool2d, kernel_size=(5, 6)),
    "uneven mean": partial(F.adaptive_avg_pool2d, output_size=(5, 3)),
    "mean of all": partial(F.adaptive_avg_pool2d, output_size=1),
    "mean of many": partial(F.avg_pool1d, kernel_size=17, stride=1),
    "doubled": partial(F.interpolate, scale_factor=2, mode="bilinear"),
    "resized": partial(F.interpolate, size=(7, 19), mode="bicubic"),
    "repeated": partial(F.interpolate, scale_factor=2),
    "nearest": partial(F.interpolate, size=(9, 17)),
}
FEW = ["overlapping maximum", "maximum of blocks", "uneven maximum", "overlapping mean", "doubled", "resized"]


def operand(name):
    return jnp.asarray(normal(3, 2, 40) if name == "mean of many" else X)


@settings(max_examples=12)
@given(st.data())
def test_windows_of_any_size_are_as_the_stock_ones(data):
    n = data.draw(st.integers(1, 3))
    space = [data.draw(st.integers(1, 9)) for _ in range(n)]
    kernel = [data.draw(st.integers(1, size)) for size in space]
    stride = [data.draw(st.integers(1, 4)) for _ in range(n)]
    padding = [data.draw(st.integers(0, k // 2)) for k in kernel]
    name = data.draw(st.sampled_from(["max", "avg"]))
    pool = partial(getattr(F, f"{name}_pool{n}d"), kernel_size=kernel, stride=stride, padding=padding)
    pool = partial(pool, ceil_mode=data.draw(st.booleans()))
    x = jnp.asarray(normal(2, 2, *space))
    value, back = jax.vjp(pool, x)
    cotangent = jnp.asarray(normal(*value.shape))
    with fnn.plain_kernels():
        stock, stock_back = jax.vjp(pool, x)
    np.testing.assert_allclose(value, stock, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(back(cotangent)[0], stock_back(cotangent)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FEW)
def test_all_derivatives_are_those_of_the_stock_operations(name):
    pool, x = POOLS[name], operand(name)
    direction = jnp.asarray(normal(*x.shape))

    def gradient(x):
        return jax.grad(lambda x: (pool(x) ** 3).sum())(x)

    def measure():
        @jax.jit
        def run(x, direction):
            both = jnp.stack([x, direction])
            return jax.jvp(jax.checkpoint(gradient), (x,), (direction,)), jax.vmap(gradient)(both)

        return run(x, direction)

    ours = measure()
    with fnn.plain_kernels():
        stock = measure()
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(stock), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("return_indices", [False, True])
@pytest.mark.parametrize("value", [None, np.nan, np.inf, -np.inf])
def test_blocks_have_the_ties_and_what_is_not_finite_as_torch_has_them(value, return_indices):
    x = np.random.default_rng(0).integers(0, 3, (2, 13, 12)).astype(np.float32)
    if value is not None:
        x[0, 1, 2] = x[0, 4, :] = x[1] = value
    for size in (6, (5, 12), (13, 12)):
        options = {"kernel_size": size, "return_indices": return_indices}
        assert_agree(F.max_pool2d, torch.nn.functional.max_pool2d, x, **options)


@pytest.mark.parametrize("name", ["overlapping maximum", "maximum of blocks", "overlapping mean", "doubled"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_sums_of_16_bits_are_of_float32(name, dtype):
    x = jnp.asarray(X).astype(dtype)
    value, back = jax.vjp(POOLS[name], x)
    wide, wide_back = jax.vjp(POOLS[name], x.astype(jnp.float32))
    assert value.dtype == back(value)[0].dtype == dtype
    tolerance = float(jnp.finfo(dtype).eps)
    for a, b in ((value, wide), (back(value)[0], wide_back(value.astype(jnp.float32))[0])):
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", POOLS)
def test_nothing_is_pooled_to_nothing(name):
    x = operand(name)[:0]
    value, back = jax.vjp(POOLS[name], x)
    assert value.shape[0] == 0
    assert back(value)[0].shape == x.shape


@pytest.mark.parametrize("name", FEW)
def test_value_and_gradient_are_exported_for_all_platforms(name):
    x = operand(name)

    def both(x):
        value, back = jax.vjp(POOLS[name], x)
        return value, back(value)

    exported = jax.export.export(jax.jit(both), platforms=["cpu", "cuda", "tpu"])(x)
    np.testing.assert_allclose(exported.call(x)[1][0], jax.jit(both)(x)[1][0], rtol=1e-5, atol=1e-5)


def test_plain_kernels_are_the_stock_operation():
    with fnn.plain_kernels():
        text = str(jax.make_jaxpr(jax.grad(lambda x: F.max_pool2d(x, 3, 2).sum()))(X))
    assert "select_and_scatter_add" in text
    assert "fnn_linear" not in text


@pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices")
@pytest.mark.parametrize("name", ["overlapping maximum", "doubled"])
def test_a_batch_divided_among_devices(name):
    x, mesh, pool = jnp.concatenate([X, X]), jax.make_mesh((4,), ("n",), (jax.sharding.AxisType.Auto,)), POOLS[name]

    def gradient(x, scale):
        return jax.grad(lambda x, scale: (pool(x * scale) ** 2).sum(), (0, 1))(x, scale)

    expected = gradient(x, jnp.float32(2))
    divided = PartitionSpec("n")
    for check in (True, False):

        def local(x, scale, check=check):
            d_x, d_scale = gradient(x, scale)
            return d_x, d_scale if check else jax.lax.psum(d_scale, "n")  # checked, it is summed by JAX

        specs = {"in_specs": (divided, PartitionSpec()), "out_specs": (divided, PartitionSpec())}
        found = jax.jit(jax.shard_map(local, mesh=mesh, check_vma=check, **specs))(x, jnp.float32(2))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    explicit = jax.make_mesh((4,), ("n",), (jax.sharding.AxisType.Explicit,))
    for kind in (mesh, explicit):
        with jax.set_mesh(kind):
            placed = jax.device_put(x, jax.sharding.NamedSharding(kind, divided))
            found = jax.jit(gradient)(placed, jnp.float32(2))
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-4)


def test_pooling_on_four_devices():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__, "-k", "divided_among"]
    run = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True, check=False)
    assert "2 passed" in run.stdout, run.stdout


def test_the_mean_of_a_whole_map_keeps_what_is_not_finite_to_its_map():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 128, 7, 7)), jnp.float32)
    assert x.size >= 2**14
    x = x.at[0, 1, 2, 3].set(jnp.nan).at[1, 2, 3, 4].set(jnp.inf)

    def both(x):
        return jax.value_and_grad(lambda x: F.avg_pool2d(x, 7).sum())(x)[1], F.avg_pool2d(x, 7)

    ours = jax.jit(both)(x)
    with fnn.plain_kernels():
        theirs = jax.jit(both)(x)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
