"""Activations of exponentials with tangents of their own, against JAX's stock operations and in every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
import fnn.functional as F
from fnn.kernels import activation

# Both sides of all rules, and where an exponential overflows in float32.
X = jnp.concatenate(
    [jnp.linspace(-110.0, 110.0, 441), jnp.linspace(-2.0, 2.0, 401), jnp.asarray([1e-8, -1e-8, 0.0, 1e30, -1e30])]
)
FUNCTIONS = {
    "softplus": activation.softplus,
    "softplus in a sum": lambda x: activation.softplus(x, summed=True),
    "mish": activation.mish,
    "silu": activation.silu,
}
EVERY = pytest.mark.parametrize("name", FUNCTIONS)


@pytest.fixture(params=["few", "many"])
def size(request, monkeypatch):
    """As if there were few elements, or many."""
    for limit in ("SHORT", "LARGE"):
        monkeypatch.setattr(activation, limit, 0 if request.param == "many" else 10**9)


def derivatives(function):
    """The value and the first two derivatives, in both modes."""

    def of(x):
        def first(x):
            return jax.grad(lambda x: function(x).sum())(x)

        along = jnp.ones_like(x)
        return function(x), first(x), jax.jvp(function, (x,), (along,))[1], jax.jvp(first, (x,), (along,))[1]

    return jax.jit(of)


@EVERY
def test_error_is_a_few_roundings_of_float64(name, size):
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(X), jnp.float64)
        with fnn.plain_kernels():
            exact = derivatives(lambda x: FUNCTIONS[name](x))(wide)
        for a, b in zip(derivatives(FUNCTIONS[name])(wide), exact, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=2e-13)
    y, *others = derivatives(FUNCTIONS[name])(X)
    # Results below what is normal in float32 are 0 there.
    np.testing.assert_allclose(y, exact[0], rtol=2e-6 if name == "mish" else 8e-7, atol=1e-30 if name != "silu" else 1e-35)
    for a, b in zip(others, exact[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


@EVERY
def test_what_is_not_finite_is_as_in_the_stock_operation(name, size):
    x = jnp.asarray([jnp.nan, jnp.inf, -jnp.inf, 1.0])
    ours = derivatives(FUNCTIONS[name])(x)
    with fnn.plain_kernels():
        theirs = derivatives(lambda x: FUNCTIONS[name](x))(x)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    for a in ours:
        assert np.isnan(a[0])
        assert np.isfinite(a[3])


@EVERY
def test_is_mapped_and_exported_for_every_platform_with_its_gradient(name, size):
    def gradient(x):
        return jax.value_and_grad(lambda x: jnp.sin(FUNCTIONS[name](x)).sum())(x)

    x = X[100:300].reshape(4, 50)
    mapped = jax.jit(jax.vmap(gradient))(x)
    np.testing.assert_allclose(mapped[1], gradient(x)[1], rtol=1e-6, atol=1e-7)
    exported = jax.export.export(jax.jit(gradient), platforms=["cpu", "cuda", "tpu"])(x)
    np.testing.assert_allclose(exported.call(x)[1], mapped[1], rtol=1e-6, atol=1e-7)


def test_plain_kernels_are_the_stock_operations():
    with fnn.plain_kernels():
        for ours, theirs in ((F.softplus, jax.nn.softplus), (F.mish, jax.nn.mish), (F.silu, jax.nn.silu)):
            np.testing.assert_array_equal(jax.jit(ours)(X[200:800]), jax.jit(theirs)(X[200:800]))


def test_losses_of_logits_have_the_gradient_of_infinite_logits():
    x = jnp.asarray([jnp.inf, -jnp.inf, 200.0, -200.0])
    gradient = jax.grad(lambda x: F.binary_cross_entropy_with_logits(x, jnp.full(4, 0.25), reduction="sum"))(x)
    np.testing.assert_allclose(gradient, [0.75, -0.25, 0.75, -0.25])
    assert np.isfinite(F.logsigmoid(x[2:])).all()
