"""Normalization, softmax and cross entropy in few passes, against JAX's stock operations and in every transformation."""

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
import fnn.functional as F
from fnn.kernels.fusion import apart

ROOT = Path(__file__).parents[2]


def random(seed, *shape, dtype=jnp.float32, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape) * scale, dtype)


def stock(function):
    """The function by JAX's stock operations."""

    @functools.wraps(function)
    def of(*operands):
        with fnn.plain_kernels():
            return function(*operands)

    return of


def affine(function, channels, *operands):
    return function, [*operands, random(1, channels), random(2, channels)]


X = random(0, 3, 6, 5, scale=2.0) + 1.0
INDEX = jnp.asarray([[0, 5, 2, -100, 4], [1, 1, 1, 3, 0], [2, 3, 4, 5, 0]])
CASES = {
    "layer_norm": affine(lambda x, w, b: F.layer_norm(x, (5,), w, b), 5, X),
    "layer_norm without bias": (lambda x, w: F.layer_norm(x, (5,), w), [X, random(1, 5)]),
    "layer_norm without weight": (lambda x: F.layer_norm(x, (5,)), [X]),
    "layer_norm of two axes": (lambda x, w: F.layer_norm(x, (6, 5), w), [X, random(1, 6, 5)]),
    "rms_norm": (lambda x, w: F.rms_norm(x, (5,), w), [X, random(1, 5)]),
    "rms_norm without weight": (lambda x: F.rms_norm(x, (6, 5)), [X]),
    "batch_norm": affine(lambda x, w, b: F.batch_norm(x, None, None, w, b, True), 6, X),
    "batch_norm of rows": (lambda x: F.batch_norm(x, None, None, training=True), [random(0, 7, 4)]),
    "batch_norm in eval": (lambda x, m, v: F.batch_norm(x, m, v * v + 1.0), [X, random(3, 6), random(4, 6)]),
    "group_norm": affine(lambda x, w, b: F.group_norm(x, 3, w, b), 6, X),
    "group_norm of rows": (lambda x: F.group_norm(x, 2), [random(0, 3, 8)]),
    "instance_norm": affine(lambda x, w, b: F.instance_norm(x, None, None, w, b), 6, X),
    "softmax": (lambda x: F.softmax(x, 1), [X]),
    "softmax with axes of one element": (lambda x: F.softmax(x, -2), [random(0, 1, 4, 1, 5, 1)]),
    "log_softmax": (lambda x: F.log_softmax(x, -1), [X]),
    "cross_entropy": (lambda x: F.cross_entropy(x, INDEX), [X]),
    "cross_entropy of smooth labels": (
        lambda x, w: F.cross_entropy(x, INDEX, jnp.exp(w), label_smoothing=0.2, reduction="sum"),
        [X, random(1, 6)],
    ),
    "cross_entropy of probabilities": (lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1), [X, random(5, 3, 6, 5)]),
    "nll_loss": (lambda x: F.nll_loss(x, INDEX, reduction="none"), [X]),
}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def derivatives(function):
    """The value, the gradient of a random cotangent, the derivative along a random direction, and that of the gradient."""

    def of(*operands):
        shape = jax.eval_shape(function, *operands)
        cotangent = random(8, *shape.shape, dtype=shape.dtype)
        gradient = jax.grad(lambda *x: (function(*x) * cotangent).sum(), tuple(range(len(operands))))
        directions = tuple(random(9 + i, *x.shape, dtype=x.dtype) for i, x in enumerate(operands))
        return jax.jvp(function, operands, directions), jax.jvp(gradient, operands, directions)

    return jax.jit(of)


def assert_close(ours, theirs, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, atol=tolerance * max(1.0, np.abs(b).max(initial=0)), rtol=tolerance)


@EVERY
def test_derivatives_of_both_orders_and_modes_are_those_of_the_stock_operations(case):
    function, operands = case
    assert_close(derivatives(function)(*operands), derivatives(stock(function))(*operands))


@EVERY
def test_is_mapped_over_value_and_gradient(case):
    function, operands = case
    batch = [jnp.stack([x, 0.5 * x + 0.25]) for x in operands]

    def gradients(*x):
        return jax.grad(lambda *x: jnp.sin(function(*x)).sum(), tuple(range(len(x))))(*x)

    mapped = jax.jit(jax.vmap(gradients))(*batch)
    one = jax.jit(gradients)
    assert_close(mapped, jax.tree.map(lambda *g: jnp.stack(g), *(one(*(x[i] for x in batch)) for i in range(2))))


@EVERY
def test_is_exported_for_every_platform_with_its_gradient(case):
    function, operands = case

    def both(*x):
        return jax.value_and_grad(lambda *x: function(*x).sum())(*x)

    exported = jax.export.export(jax.jit(both), platforms=["cpu", "cuda", "tpu"])(*operands)
    assert_close(exported.call(*operands), jax.jit(both)(*operands))


@hypothesis.settings(max_examples=6)
@hypothesis.given(
    shape=st.tuples(st.integers(1, 40), st.sampled_from([2, 3, 16, 33, 129])),
    mean=st.sampled_from([0.0, 30.0]),
    which=st.sampled_from(["layer_norm", "rms_norm", "softmax", "log_softmax"]),
)
def test_error_is_within_bounds_of_float64(shape, mean, which):
    """At most a few roundings of the largest value, and as many times the mean over the smallest deviation of a row."""
    features = shape[1:]
    function = {
        "layer_norm": lambda x, w: F.layer_norm(x, features, w, w),
        "rms_norm": lambda x, w: F.rms_norm(x, features, w, 1e-5),
        "softmax": lambda x, w: F.softmax(x, -1) * w,
        "log_softmax": lambda x, w: F.log_softmax(x, -1) * w,
    }[which]

    def both(x, w):
        y, pull = jax.vjp(function, x, w)
        return y, pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    operands = random(3, *shape) + mean, random(4, *features)
    distance = mean / min(1.0, float(operands[0].std(-1).min()))
    found = jax.jit(both)(*operands)
    with jax.enable_x64(True):
        exact = jax.jit(both)(*(jnp.asarray(np.asarray(x), jnp.float64) for x in operands))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        error = np.abs(np.asarray(a, np.float64) - np.asarray(b)).max()
        assert error <= 1e-6 * (20 + distance) * max(1.0, np.abs(np.asarray(b)).max())


@pytest.mark.parametrize("name", ["layer_norm", "batch_norm", "group_norm", "softmax", "cross_entropy"])
def test_is_of_double_precision_where_that_is_asked_for(name):
    with jax.enable_x64(True):
        function, operands = CASES[name]
        operands = [jnp.asarray(np.asarray(x), jnp.float64) for x in operands]
        assert_close(derivatives(function)(*operands), derivatives(stock(function))(*operands), 1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "batch_norm", "softmax", "log_softmax"])
def test_accumulates_16_bits_in_32(name, dtype):
    function, operands = CASES[name]
    narrow = [x.astype(dtype) for x in operands]
    found = jax.jit(function)(*narrow)
    assert found.dtype == dtype
    exact = jax.jit(function)(*(x.astype(jnp.float32) for x in narrow))
    assert_close(found.astype(jnp.float32), exact, 2.0 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "softmax", "log_softmax"])
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_what_is_not_finite_stays_in_its_row(name, value):
    function, (x, *rest) = CASES[name]
    if name == "softmax":
        x, function = x.swapaxes(1, 2), lambda x: F.softmax(x, -1)
    x = x.at[1, 2, 3].set(value)
    np.testing.assert_array_equal(np.isnan(function(x, *rest)), np.isnan(stock(function)(x, *rest)))


@EVERY
def test_plain_kernels_are_the_stock_operations(case):
    function, operands = case
    with fnn.plain_kernels():
        program = jax.jit(lambda *x: jax.vjp(function, *x)[0]).lower(*operands).as_text()
    assert "clamp" not in program


def test_what_is_kept_apart_is_the_same_in_every_transformation():
    x = jnp.asarray([1.0, -jnp.inf, jnp.nan, jnp.inf])
    np.testing.assert_array_equal(jax.jit(apart)(x), x)
    np.testing.assert_array_equal(jax.vmap(apart)(x), x)
    assert jax.grad(jax.jit(lambda x: apart(3.0 * x)))(2.0) == 3.0


def test_agrees_with_itself_when_divided_over_devices():
    code = """
    import jax, jax.numpy as jnp, numpy as np, fnn.functional as F
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 4, 6)), jnp.float32)
    w, b = jnp.arange(1.0, 7.0), jnp.arange(6.0)
    index = jnp.arange(48).reshape(8, 6) % 4

    def loss(x, w, b, axis=None):
        y = F.layer_norm(x, (6,), w, b)
        z = F.batch_norm(x, None, None, w[:4], b[:4], True, axis_name=axis)
        g = F.group_norm(x, 2, w[:4], b[:4]) + F.rms_norm(x, (6,), w)
        s = F.softmax(x, 1) * F.log_softmax(x, -1)
        total = (jnp.sin(y) + z**3 + g**2 + s).sum() + F.cross_entropy(x, index[: len(x)], reduction="sum")
        return total if axis is None else jax.lax.psum(total, axis)

    grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    cotangent = grads(x, w, b)

    def same(found):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(cotangent), strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-3, rtol=1e-4)

    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4,), ("d",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            put = lambda a, *s: jax.device_put(a, NamedSharding(mesh, P(*s)))
            index = put(jnp.arange(48).reshape(8, 6) % 4, "d")
            same(grads(put(x, "d"), put(w), put(b)))
        index = jnp.tile(jnp.arange(48).reshape(8, 6) % 4, 1)
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    for check in (True, False):
        def whole(x, w, b, index_):
            global index
            index = index_
            return loss(x, w, b, "d")
        mapped = jax.shard_map(whole, mesh=mesh, in_specs=(P("d"), P(), P(), P("d")), out_specs=P(), check_vma=check)
        whole_index = jnp.arange(48).reshape(8, 6) % 4
        same(jax.jit(jax.value_and_grad(lambda *o: mapped(*o, whole_index), (0, 1, 2)))(x, w, b))
    """
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env=environment, cwd=ROOT)
