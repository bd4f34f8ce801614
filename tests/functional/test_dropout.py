"""Dropout draws the masks that torch's definition asks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_close, assert_refused, normal, numpy, tensor, torch

import fnn
import fnn.functional as F

ONES = jnp.ones((200, 500))
# The shapes that functions take, and how many of the axes name what is dropped as one
SHAPES = [
    ("dropout", (20000,), 1),
    ("dropout", (200, 100), 2),
    ("dropout1d", (200, 100, 3), 2),
    ("dropout1d", (20000, 3), 1),
    ("dropout2d", (200, 100, 3, 2), 2),
    ("dropout3d", (200, 100, 3, 2, 1), 2),
    ("dropout3d", (20000, 3, 2, 1), 1),
    ("alpha_dropout", (200, 100), 2),
    ("feature_alpha_dropout", (200, 100, 3), 2),
    ("feature_alpha_dropout", (200, 100), 2),
]
NAMES = sorted({name for name, _, _ in SHAPES})
INPUTS = {"dropout1d": (2, 3, 4), "dropout2d": (2, 3, 4, 5), "dropout3d": (2, 3, 4, 5, 1)}


def drop(x, p, seed=0, name="dropout", **options):
    with fnn.rng(seed):
        return getattr(F, name)(x, p, **{"training": True, **options})


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize(("name", "shape", "leading"), SHAPES, ids=str)
def test_drops_the_expected_share_to_the_values_of_torch(name, shape, leading, p):
    x = np.full(shape, 1.5, np.float32)
    out = np.asarray(drop(x, p, name=name)).reshape(int(np.prod(shape[:leading])), -1)
    assert (out == out[:, :1]).all()
    few = np.full((1, 200, *shape[leading:]) if leading == 1 else (2, 100, *shape[leading:]), 1.5, np.float32)
    few = few[0] if leading == 1 else few
    expected = np.unique(numpy(getattr(torch.nn.functional, name)(tensor(few), p, True)))
    values, counts = np.unique(out[:, 0], return_counts=True)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    dropped = counts[0] / len(out)  # the smaller of two values
    assert abs(dropped - p) < 5 * np.sqrt(p * (1 - p) / len(out))


@pytest.mark.parametrize("name", ["alpha_dropout", "feature_alpha_dropout"])
def test_alpha_dropout_keeps_mean_and_variance(name):
    out = drop(normal(300, 300, 1), 0.3, name=name)
    np.testing.assert_allclose([out.mean(), out.std()], [0, 1], atol=0.02)


def test_drops_each_element_on_its_own():
    kept = drop(ONES, 0.5) != 0
    both = (kept[1:] & kept[:-1]).mean(), (kept[:, 1:] & kept[:, :-1]).mean()
    np.testing.assert_allclose(both, 0.25, atol=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_scale_of_what_is_kept(name):
    x = jnp.asarray(normal(*INPUTS.get(name, (5, 6, 2))))
    out, pull = jax.vjp(lambda x: drop(x, 0.25, name=name), x)
    shift = drop(jnp.zeros_like(x), 0.25, name=name)
    np.testing.assert_allclose(pull(x)[0], out - shift, atol=1e-6)


def test_each_draw_is_another_one_and_the_key_decides_it():
    with fnn.rng(0):
        first, second = F.dropout(ONES), F.dropout(ONES)
    assert (first != second).any()
    assert (drop(ONES, 0.5) == first).all()
    assert (drop(ONES, 0.5, seed=1) != first).any()


@pytest.mark.parametrize(("p", "options"), [(0.0, {}), (0.5, {"training": False}), (1.0, {"training": False})])
@pytest.mark.parametrize("name", NAMES)
def test_returns_its_input_where_nothing_is_to_be_dropped(name, p, options):
    before = fnn.random.default_generator.offset
    for dtype in (jnp.float32, jnp.int32, bool, jnp.complex64):
        x = jnp.ones(INPUTS.get(name, (3, 4)), dtype)
        out = getattr(F, name)(x, p, **{"training": True, **options})
        assert out.dtype == dtype
        assert (out == x).all()
    assert getattr(F, name)(jnp.ones((0, *INPUTS.get(name, (3, 4))[1:])), training=True).size == 0
    assert fnn.random.default_generator.offset == before


@pytest.mark.parametrize("name", NAMES)
def test_drops_everything_with_probability_one(name):
    x = jnp.ones(INPUTS.get(name, (3, 4)))
    out, pull = jax.vjp(lambda x: getattr(F, name)(x, 1.0, training=True), x)
    assert not out.any()
    assert not pull(x)[0].any()
    assert getattr(F, name)(x.astype(int), 1.0, training=True).dtype == jnp.int32


@pytest.mark.parametrize("p", [0.5, 1.0])
@pytest.mark.parametrize("name", ["dropout", "alpha_dropout"])
def test_nan_and_infinity_are_seen_where_they_are_dropped(name, p):
    x = np.repeat(np.float32([np.nan, np.inf]), 200)
    theirs = numpy(getattr(torch.nn.functional, name)(tensor(x), p, True))
    ours = np.asarray(drop(x, p, name=name))
    assert np.isnan(ours[:200]).all()
    assert set(map(str, ours[200:])) == set(map(str, theirs[200:]))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_keeps_the_dtype(dtype):
    out = drop(ONES.astype(dtype), 0.75, inplace=True)
    assert out.dtype == dtype
    assert set(np.unique(out.astype(jnp.float32)).tolist()) == {0.0, 4.0}


def test_draws_under_transformations():
    x, expected = normal(3, 4), drop(normal(1, 1), 0.5, seed=7)
    compiled = fnn.jit(lambda x: F.alpha_dropout(x, training=True))
    with fnn.rng(7):
        np.testing.assert_allclose(fnn.jit(F.dropout)(jnp.ones((1, 1))) != 0, expected != 0)
    assert (compiled(x) != compiled(x)).any()
    with fnn.rng(0):
        assert jax.vmap(F.dropout)(x).shape == x.shape
    with pytest.raises(fnn.StateError):
        jax.jit(F.dropout)(x)


@pytest.mark.parametrize(("name", "shape"), [("dropout2d", (2, 3, 4)), ("dropout2d", (2, 3)), ("dropout3d", (3,))])
def test_warns_of_another_number_of_axes(name, shape):
    for functional, array in ((torch.nn.functional, tensor), (F, jnp.asarray)):
        with pytest.warns(UserWarning, match=f"{name}: "):
            out = getattr(functional, name)(array(normal(*shape)), 1.0)
        assert_close(out + 1, torch.ones(shape))


def test_dropout2d_takes_three_axes_as_a_batch_of_rows():
    with pytest.warns(UserWarning, match="dropout2d"):
        out = drop(jnp.ones((50, 50, 3)), 0.5, name="dropout2d")
    assert (out == out[..., :1]).all()
    assert (out[0] != out[1]).any()
    assert (out[:, 0] != out[:, 1]).any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda F, array: F.dropout(array([1.0]), -0.1), ["between 0 and 1", "-0.1"]),
        (lambda F, array: F.alpha_dropout(array([1.0]), 1.5), ["between 0 and 1", "1.5"]),
        (lambda F, array: F.dropout1d(array(normal(2))), ["2D or 3D", "1D", "[2]"]),
        (lambda F, array: F.dropout1d(array(normal(2, 2, 2, 2))), ["2D or 3D", "4D"]),
        (lambda F, array: F.feature_alpha_dropout(array(normal(2)), training=True), ["2 dimensions", "[2]"]),
        (lambda F, array: F.dropout(array([1])), ["int32"]),
        (lambda F, array: F.dropout(array([True])), ["bool"]),
        (lambda F, array: F.dropout(array([1j])), ["complex"]),
        (lambda F, array: F.dropout(None), ["input", "NoneType"]),
        (lambda F, array: F.dropout(array([1.0]), "half"), ["str"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_refuses(call, words):
    assert_refused(lambda nn, array: call(nn.functional, array), *words)


@pytest.mark.parametrize("name", ["dropout2d", "feature_alpha_dropout"])
def test_feature_dropout_refuses_one_axis(name):
    with pytest.raises(RuntimeError, match="2 dimensions"):
        drop(jnp.ones(2), 0.5, name=name)
