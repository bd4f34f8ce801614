"""Activations agree with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_close, assert_refused, normal, tensor, torch

import fnn
import fnn.functional as F

# With all kinks of the functions as they are called here
KINKS = np.array([-100, -7, -3, -2, -1, -0.5, -1e-3, -0.0, 0, 1e-3, 0.5, 0.7, 1, 2, 3, 6, 8, 20, 100], np.float32)
NOT_FINITE = np.array([np.nan, -np.inf, np.inf], np.float32)

CALLS = [
    ("threshold", -0.5, 9.0),
    ("threshold", 0.7, 0.3),
    ("relu",),
    ("relu", True),
    ("hardtanh",),
    ("hardtanh", -0.5, 0.7),
    ("hardtanh", 1.0, 1.0),
    ("hardswish",),
    ("relu6",),
    ("elu",),
    ("elu", 2.0),
    ("elu", -0.5),
    ("selu",),
    ("celu", 2.0),
    ("celu", -0.5),
    ("leaky_relu",),
    ("leaky_relu", -0.3),
    ("rrelu", 0.1, 0.3),
    ("gelu",),
    ("logsigmoid",),
    ("hardshrink",),
    ("hardshrink", 0.7),
    ("hardshrink", -1.0),
    ("softshrink",),
    ("softshrink", 0.0),
    ("tanhshrink",),
    ("softsign",),
    ("softplus",),
    ("softplus", 2.0, 1.0),
    ("softplus", -0.5, 10.0),
    ("tanh",),
    ("sigmoid",),
    ("hardsigmoid",),
    ("silu",),
    ("mish",),
    ("relu_",),
    ("threshold_", 1.0, 2.0),
    ("hardtanh_", -2.0, 3.0),
    ("elu_", 0.5),
    ("selu_",),
    ("celu_", 0.5),
    ("leaky_relu_", 0.2),
    ("rrelu_", 0.2, 0.5),
]
ALONG = ["softmax", "softmin", "log_softmax", "glu"]
ELEMENTWISE = [call for call in CALLS if not call[0].endswith("_")]
SMOOTH = [call for call in ELEMENTWISE if call[0] not in ("threshold", "hardsigmoid", "relu", "relu6", "hardtanh")]
SMOOTH.remove(("softplus", 2.0, 1.0))  # torch's second derivative at the threshold is not of the same side as its first


def both(call):
    name, *options = call

    def torchs(x):
        return getattr(torch.nn.functional, name)(x.clone() if name[-1] == "_" or True in options else x, *options)

    return lambda x: getattr(F, name)(x, *options), torchs


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_values_and_gradients_at_kinks_in_all_precisions_and_values_that_are_not_finite(call):
    ours, theirs = both(call)
    others = NOT_FINITE[: 2 if call[0] == "gelu" else 3]  # torch's of infinity is NaN for some dtypes and sizes
    inputs = [KINKS, KINKS.astype(jnp.bfloat16), KINKS.astype(np.float16), others]
    assert_agree(lambda *xs: [ours(x) for x in xs], lambda *xs: [theirs(x) for x in xs], *inputs, fixed=(3,))


@pytest.mark.parametrize("call", [*SMOOTH, ("softmax", 0), ("log_softmax", 0), ("gelu", "tanh")], ids=str)
def test_second_derivatives(call):
    if call == ("gelu", "tanh"):
        ours, theirs = (lambda x, f=f: f(x, approximate="tanh") for f in (F.gelu, torch.nn.functional.gelu))
    else:
        ours, theirs = both(call)
    x, v = KINKS[3:-2], normal(KINKS.size - 5)
    found = jax.jit(lambda x: jax.jvp(jax.grad(lambda x: ours(x) @ v), (x,), (v,))[1])(x)
    t = tensor(x).requires_grad_()
    (gradient,) = torch.autograd.grad(theirs(t) @ tensor(v), t, create_graph=True)
    (expected,) = torch.autograd.grad(gradient @ tensor(v), t)
    assert_close(found, expected, 2e-5)


def test_passes_the_gradient_of_nan_on_in_relu_and_threshold():
    for call in (("relu",), ("threshold", 0.5, 0.0)):
        assert jax.grad(both(call)[0])(jnp.nan) == 1


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int8, bool, np.complex64])
@pytest.mark.parametrize("call", [*ELEMENTWISE, *((name, 0) for name in ALONG)], ids=str)
def test_takes_or_refuses_what_is_not_of_floating_point(call, dtype):
    x = np.array([0, 1, 2, 9]).astype(dtype)
    if np.dtype(dtype).kind in "ic":
        x = -x + (3j if dtype is np.complex64 else 0)
    ours, theirs = both(call)
    try:
        expected = theirs(tensor(x))
    except RuntimeError as error:
        with pytest.raises(type(error)):
            ours(jnp.asarray(x))
    else:
        assert_close(ours(jnp.asarray(x)), expected, 1e-6 if expected.dtype.is_floating_point else 1e-5)


def test_integers_cut_limits_off():
    x = np.array([-3, -1, 0, 1, 3], np.int32)
    assert_agree(F.hardtanh, torch.nn.functional.hardtanh, x, -1.9, 1.9)
    assert_agree(F.threshold, torch.nn.functional.threshold, x, -1.5, 7.5)
    assert_agree(F.threshold, torch.nn.functional.threshold, np.array([0, 3], np.uint8), 1, -1)


def test_rounds_16_bits_once():
    x = np.linspace(-5, 5, 1000).astype(jnp.bfloat16)
    for call in (("gelu",), ("silu",), ("mish",), ("tanhshrink",), ("softsign",), ("hardswish",)):
        ours, _ = both(call)
        assert (ours(jnp.asarray(x)) == ours(jnp.asarray(x, jnp.float32)).astype(jnp.bfloat16)).all(), call


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate):
    x = np.linspace(-5, 5, 100).astype(np.float32)
    assert_agree(F.gelu, torch.nn.functional.gelu, x, approximate=approximate)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 3), max_size=4), st.integers(0, 3), st.sampled_from([*ALONG, "prelu"]), st.booleans())
def test_shapes_and_axes(sizes, place, name, from_behind):
    shape = [2 * size for size in sizes] if name == "glu" else sizes
    if not shape and name == "glu":
        shape = [2]
    if name == "prelu":
        channels = shape[1] if len(shape) > 1 else 1
        assert_agree(F.prelu, torch.nn.functional.prelu, normal(*shape), normal(channels if place else 1))
        return
    dim = place % max(len(shape), 1) - (max(len(shape), 1) if from_behind else 0)
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), np.asarray(normal(*shape) * 5), dim)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize("name", ALONG)
def test_16_bits_along_an_axis(name, dtype):
    x = normal(3, 4, 5, dtype=dtype)
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), x, 1, tolerance=3e-2)  # torch rounds on the way


@pytest.mark.parametrize("name", ALONG[:3])
def test_masked_and_large_logits(name):
    x = np.array([[0, -np.inf, 3], [1e4, -1e4, 0], [-np.inf, -np.inf, -np.inf], [np.inf, 0, 0], [np.nan, 0, 1]], np.float32)
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), x[:2], dim=1, tolerance=1e-4)  # terms cancel
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), x, dim=1, fixed=(0,))


@pytest.mark.parametrize(
    ("given", "asked"), [(np.float32, "bfloat16"), (np.float16, "float32"), (int, "float32"), (bool, "float32")]
)
@pytest.mark.parametrize("name", ALONG[:3])
def test_converts_first(name, given, asked):
    x = (normal(3, 4) * 2).astype(given)
    if (name, given) == ("softmin", bool):
        assert_refused(lambda nn, array: nn.functional.softmin(array(x), 1), "bool")
        return
    ours, theirs = getattr(F, name), getattr(torch.nn.functional, name)
    assert_agree(
        lambda x: ours(x, 1, dtype=getattr(jnp, asked)), lambda x: theirs(x, 1, dtype=getattr(torch, asked)), x, tolerance=3e-2
    )


@pytest.mark.parametrize("name", ALONG[:3])
def test_warns_of_the_axis_that_it_chooses(name):
    for shape in ((), (3,), (2, 3), (2, 3, 4), (2, 3, 4, 5)):
        x = normal(*shape)
        with pytest.warns(UserWarning, match=f"Implicit dimension choice for {name}"):
            assert_close(getattr(F, name)(x), getattr(torch.nn.functional, name)(tensor(x)))


@pytest.mark.parametrize(
    ("shape", "weight"), [((), ()), ((), (1,)), ((3,), (1,)), ((2, 3), (3,)), ((2, 3), ()), ((2, 3, 4, 5), (3,))], ids=str
)
def test_prelu(shape, weight):
    x = normal(*shape)
    if x.ndim > 1:
        x[0, 0] = 0
    assert_agree(F.prelu, torch.nn.functional.prelu, x, normal(*weight))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_prelu_in_16_bits(dtype):
    assert_agree(F.prelu, torch.nn.functional.prelu, normal(2, 3, 4, dtype=dtype), normal(3, dtype=dtype))


def test_prelu_takes_a_parameter():
    weight = fnn.nn.Parameter(jnp.array([0.5]))
    assert F.prelu(jnp.array([-1.0, 2.0]), weight).tolist() == [-0.5, 2]


ONES = -jnp.ones((100, 200))


def test_rrelu_draws_slopes_between_its_bounds():
    with fnn.rng(0):
        out, pull = jax.vjp(lambda x: F.rrelu(x, 0.2, 0.6, training=True), ONES)
        other = F.rrelu_(ONES, 0.2, 0.6, training=True)
    assert -0.6 <= out.min() < -0.59
    assert -0.21 < out.max() <= -0.2
    np.testing.assert_allclose(out.mean(), -0.4, atol=0.005)
    np.testing.assert_allclose(pull(jnp.ones_like(out))[0], -out, rtol=1e-6)
    assert (out != other).mean() > 0.99
    assert (F.rrelu(-ONES, training=True) == 1).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_gumbel_softmax_draws_in_the_proportions_of_softmax(dtype):
    p = jnp.array([0.1, 0.2, 0.7])
    logits = jnp.broadcast_to(jnp.log(p), (20000, 3)).astype(dtype)
    with fnn.rng(0):
        soft = F.gumbel_softmax(logits, tau=0.5)
    with fnn.rng(0):
        hard = F.gumbel_softmax(logits, tau=0.5, hard=True)
    assert soft.dtype == hard.dtype == dtype
    np.testing.assert_allclose(soft.astype(jnp.float32).sum(1), 1, atol=1e-2)
    assert ((hard == 1).sum(1) == 1).all()
    assert ((hard == 0).sum(1) == 2).all()
    assert (hard.argmax(1) == soft.argmax(1)).mean() > 0.99  # 16 bits have ties
    np.testing.assert_allclose(hard.astype(jnp.float32).mean(0), p, atol=0.02)


def test_gumbel_softmax_gives_its_hard_samples_the_gradient_of_the_soft_ones():
    logits, cotangent = normal(4, 3), normal(4, 3)

    def gradient(hard):
        with fnn.rng(1):
            return jax.grad(lambda x: (F.gumbel_softmax(x, 0.7, hard, dim=0) * cotangent).sum())(logits)

    np.testing.assert_allclose(gradient(True), gradient(False), rtol=1e-6)
    assert jnp.abs(gradient(True)).max() > 0


@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_softmax_takes_scalars_and_empty_batches(hard):
    assert F.gumbel_softmax(jnp.float32(3), hard=hard) == 1
    assert F.gumbel_softmax(jnp.ones((0, 2)), hard=hard).shape == (0, 2)


def test_gumbel_softmax_warns_of_eps():
    with pytest.warns(UserWarning, match="eps"):
        F.gumbel_softmax(jnp.ones(2), eps=1e-3)


def test_random_activations_draw_under_transformations():
    x = normal(3, 4)

    def draw(x):
        return F.rrelu(x, training=True) + F.gumbel_softmax(x)

    with fnn.rng(0):
        expected = draw(x)
    with fnn.rng(0):
        np.testing.assert_allclose(fnn.jit(draw)(x), expected, rtol=1e-5)
    compiled = fnn.jit(draw)
    assert (compiled(x) != compiled(x)).any()
    with fnn.rng(0):
        assert jax.vmap(draw)(x).shape == x.shape
    with pytest.raises(fnn.StateError):
        jax.jit(draw)(x)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda F, array: F.relu(array([1j])), ["relu", "complex"]),
        (lambda F, array: F.relu(None), ["input", "NoneType"]),
        (lambda F, array: F.gelu(array([1])), ["gelu", "int32", "floating-point"]),
        (lambda F, array: F.gelu(array([1.0]), approximate="erf"), ["none or tanh", "'erf'"]),
        (lambda F, array: F.threshold(array(np.int32([1])), 0, 1e10), ["int32", "overflow"]),
        (lambda F, array: F.threshold(array(np.int32([1])), float("nan"), 1), ["int32", "nan"]),
        (lambda F, array: F.hardtanh(array([1.0]), 2, 1), ["min_val", "2", "1"]),
        (lambda F, array: F.hardtanh(array(np.uint8([1])), -1, 1), ["unsigned", "uint8", "-1"]),
        (lambda F, array: F.softshrink(array([1.0]), -0.5), ["lambda", "-0.5"]),
        (lambda F, array: F.softshrink(array([1.0]), float("nan")), ["lambda", "nan"]),
        (lambda F, array: F.celu(array([1.0]), 0), ["alpha", "0"]),
        (lambda F, array: F.rrelu(array([1.0]), 0.5, 0.2), ["Lower bound", "0.5", "0.2"]),
        (lambda F, array: F.rrelu(array([1.0]), float("inf"), float("inf"), training=True), ["finite", "inf"]),
        (lambda F, array: F.glu(array([1.0, 2.0, 3.0])), ["even", "3"]),
        (lambda F, array: F.glu(array(1.0)), ["scalars"]),
        (lambda F, array: F.glu(array([[1.0, 2.0]]), 2), ["[-2, 1]", "2"]),
        (lambda F, array: F.glu(array([1.0, 2.0]), None), ["dim", "None"]),
        (lambda F, array: F.prelu(array([1.0, 2.0]), array(normal(2))), ["1 channels", "[2]"]),
        (lambda F, array: F.prelu(array(1.0), array(normal(2))), ["[]", "[2]"]),
        (lambda F, array: F.prelu(array(normal(2, 3)), array(normal(2))), ["3 channels", "[2]"]),
        (lambda F, array: F.prelu(array(normal(2, 3)), array(normal(1, 1))), ["[1, 1]"]),
        (lambda F, array: F.prelu(array(normal(2)), array(normal(1, dtype=np.float16))), ["float32", "float16"]),
        (lambda F, array: F.prelu(array(normal(2)), None), ["weight", "NoneType"]),
        (lambda F, array: F.softmax(array([1]), 0), ["int32", "floating-point"]),
        (lambda F, array: F.log_softmax(array([[1.0]]), 2), ["[-2, 1]", "2"]),
        (lambda F, array: F.softmin(array(1.0), 1), ["[-1, 0]", "1"]),
        (lambda F, array: F.log_softmax(array([1.0]), "last"), ["dim", "'last'"]),
        (lambda F, array: F.gumbel_softmax(array([1])), ["int32"]),
        (lambda F, array: F.gumbel_softmax(array([1.0]), dim=1), ["[-1, 0]", "1"]),
        (lambda F, array: F.gumbel_softmax(array([1.0]), dim=None), ["dim", "None"]),
        (lambda F, array: F.gumbel_softmax(array(normal(2, 0)), hard=True), ["non-zero", "[2, 0]"]),
        (lambda F, array: F.elu(array([1.0]), None), ["NoneType"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_refuses(call, words):
    assert_refused(lambda nn, array: call(nn.functional, array), *words)
