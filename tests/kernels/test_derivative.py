"""A function with a faster way of computing it keeps all derivatives, under all transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import normal

from fnn.kernels.derivative import faster

TRACED = []


def plain(a, b):
    return jnp.tanh(a @ b.swapaxes(-1, -2))


def opaque(function):
    """One that JAX knows nothing about: it fails where it is differentiated or mapped over."""

    def call(*arrays):
        TRACED.append(function.__name__)
        shapes = jax.eval_shape(function, *arrays)
        assert all(x.ndim == arrays[0].ndim for x in arrays)
        return jax.pure_callback(jax.jit(function), shapes, *arrays)

    call.__name__ = function.__name__
    return jax.jit(call)


def fast_value(a, b):
    return plain(a, b)


def fast_gradient(a, b, value, cotangent):
    inner = cotangent * (1 - value**2)
    return inner @ b, inner.swapaxes(-1, -2) @ a


def with_own_gradient(value, gradient):
    """The same without forward mode and second derivatives."""

    def forward(a, b):
        result = value(a, b)
        return result, (a, b, result)

    function = jax.custom_vjp(value)
    function.defvjp(forward, lambda kept, cotangent: gradient(*kept, cotangent))
    return function


fast = with_own_gradient(opaque(fast_value), opaque(fast_gradient))


def either(a, b):
    return faster(fast, plain, a, b, platform="cpu", batched=True)


A, B = (jnp.asarray(normal(2, n, 4)) for n in (3, 5))
TANGENTS = tuple(jnp.asarray(normal(2, n, 4)) for n in (3, 5))


def loss(f):
    return lambda a, b: (f(a, b) ** 3).sum()


def gradient(f):
    return jax.grad(loss(f), (0, 1))


def scanned(f):
    return lambda a, b: jax.lax.scan(lambda carry, x: (carry + f(carry, x) @ x, None), a, jnp.stack([b, b / 2]))[0]


TRANSFORMATIONS = {
    "value": lambda f: f(A, B),
    "gradient": lambda f: gradient(f)(A, B),
    "gradient in one": lambda f: jax.grad(lambda b: loss(f)(A, b))(B),
    "jvp": lambda f: jax.jvp(f, (A, B), TANGENTS),
    "linearize": lambda f: jax.linearize(f, A, B)[1](*TANGENTS),
    "forward over reverse": lambda f: jax.jvp(gradient(f), (A, B), TANGENTS),
    "reverse over forward": lambda f: jax.grad(lambda a, b: jax.jvp(loss(f), (a, b), TANGENTS)[1], (0, 1))(A, B),
    "reverse over reverse": lambda f: jax.grad(lambda a, b: sum((x**2).sum() for x in gradient(f)(a, b)), (0, 1))(A, B),
    "third order": lambda f: jax.grad(lambda t: jax.jvp(gradient(f), (A * t, B), TANGENTS)[1][0].sum())(1.0),
    "vmap": lambda f: jax.vmap(f)(A, B),
    "vmap of the first": lambda f: jax.vmap(f, (1, None), 2)(A.swapaxes(0, 1), B[0]),
    "vmap of the second": lambda f: jax.vmap(f, (None, 0))(A, jnp.stack([B, -B, 2 * B])),
    "vmap of vmap": lambda f: jax.vmap(jax.vmap(f, (None, 0)), (0, None))(A, B),
    "vmap of gradient": lambda f: jax.vmap(gradient(f), (0, None))(A, B[0]),
    "gradient of vmap": lambda f: gradient(jax.vmap(f, (0, None)))(A, B[0]),
    "vmap of second": lambda f: jax.vmap(lambda a: jax.jvp(lambda b: gradient(f)(a, b), (B[0],), (B[1],)))(A),
    "checkpoint": lambda f: gradient(jax.checkpoint(f))(A, B),
    "scan": lambda f: gradient(scanned(f))(A, B),
    "jit": lambda f: gradient(jax.jit(f))(A, B),
}


@pytest.mark.parametrize("transformation", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)
def test_all_derivatives_are_those_of_the_plain_way(transformation):
    ours, theirs = jax.jit(lambda: (transformation(either), transformation(plain)))()
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("value", {"fast_value"}),
        ("gradient", {"fast_value", "fast_gradient"}),
        ("forward over reverse", {"fast_value", "fast_gradient"}),
        ("vmap of the first", set()),
        ("vmap of gradient", set()),
        ("gradient of vmap", set()),
    ],
)
def test_several_results_of_a_function_that_is_mapped_over_in_the_plain_way(name, names):
    def several(function):
        return lambda a, b: {"same": function(a, b), "sums": [b.sum(-1)]}

    def ours(a, b):
        results = faster(several(fast), several(plain), a, b, platform="cpu", batched=False)
        return results["same"] + results["sums"][0].sum()

    def theirs(a, b):
        return plain(a, b) + b.sum()

    for a, b in zip(*(jax.tree.leaves(jax.jit(lambda f=f: TRANSFORMATIONS[name](f))()) for f in (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()), rtol=1e-5)
    text = jax.jit(lambda: TRANSFORMATIONS[name](ours)).trace().lower(lowering_platforms=("cpu",)).as_text()
    assert {call for call in ("fast_value", "fast_gradient") if f"@{call}" in text} == names


def test_without_jit_it_is_the_same():
    for ours, theirs in zip(gradient(either)(A, B), gradient(plain)(A, B), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (either, {"fast_value"}),
        (gradient(either), {"fast_value", "fast_gradient"}),
        (jax.vmap(gradient(either), (0, 0)), {"fast_value", "fast_gradient"}),
        (lambda a, b: jax.jvp(either, (a, b), TANGENTS)[1], set()),
        (lambda a, b: jax.jvp(gradient(either), (a, b), TANGENTS)[1], {"fast_value"}),
    ],
    ids=["value", "gradient", "vmap of gradient", "jvp", "second"],
)
def test_fast_is_what_runs_on_its_platform_and_only_there(function, names):
    def found(platform):
        text = jax.jit(function).trace(A, B).lower(lowering_platforms=(platform,)).as_text()
        return {name for name in ("fast_value", "fast_gradient") if f"@{name}" in text}

    assert found("cuda") == set()
    assert found("cpu") == names


def test_a_second_call_traces_nothing():
    compiled = jax.jit(either)
    gradient(compiled)(A, B)
    before = len(TRACED)
    gradient(compiled)(A + 1, B)
    assert len(TRACED) == before > 0


def test_the_gradient_of_what_all_devices_share_is_summed_under_shard_map():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = jax.P("data"), jax.P()
    visible = with_own_gradient(fast_value, fast_gradient)  # a callback does not say how it varies

    def run(f):
        mapped = jax.shard_map(gradient(f), mesh=mesh, in_specs=specs, out_specs=specs)
        assert "psum" in str(jax.make_jaxpr(mapped)(A, B))
        forward = jax.shard_map(lambda a, b: jax.lax.psum(loss(f)(a, b), "data"), mesh=mesh, in_specs=specs, out_specs=jax.P())
        second = jax.jvp(jax.grad(forward, (0, 1)), (A, B), TANGENTS)
        return mapped(A, B), second

    ours, theirs = jax.jit(lambda: (run(lambda a, b: faster(visible, plain, a, b, platform="cpu", batched=True)), run(plain)))()
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


def test_it_exports_for_each_platform():
    platforms = ["cpu", "cuda", "tpu"]
    for name in platforms:
        function = jax.grad(lambda a, b, name=name: faster(plain, plain, a, b, platform=name, batched=True).sum())
        assert list(jax.export.export(jax.jit(function), platforms=platforms)(A, B).platforms) == platforms
