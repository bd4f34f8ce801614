"""Distances and similarities agree with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_close, assert_refused, integers, normal, tensor, torch

import fnn.functional as F


def check(name, *operands, tolerance=None, fixed=(), **options):
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), *operands, tolerance=tolerance, fixed=fixed, **options)


POWERS = [2.0, 1.0, 0.5, 1.5, 3.0, np.inf]


@pytest.mark.parametrize("p", [*POWERS, -1.0, -np.inf])
def test_pairwise_distance(p):
    check("pairwise_distance", normal(3, 4), normal(3, 4), p=p, eps=0.1, tolerance=3e-5)


@pytest.mark.parametrize("p", POWERS)
def test_the_gradient_of_equal_points_and_ties(p):
    x = np.array([[0, 0, 0], [0, 0, 0], [1, -1, 0], [1, 1, 0.5]], np.float32)
    check("pairwise_distance", x, np.zeros_like(x), p=p, eps=0.0)
    check("pdist", x, p=p, tolerance=1e-5)


def test_distances_of_power_0_count():
    x, y = np.array([[0, 1, 2, np.nan]], np.float32), np.zeros((1, 4), np.float32)
    check("pairwise_distance", x, y, p=0, eps=0.0, fixed=(0, 1))
    check("pdist", np.concatenate([x[:, :3], y[:, :3]]), p=0)


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize(
    "shapes", [((4,), (4,)), ((2, 3, 4), (3, 1)), ((2, 1), (2, 3)), ((0, 4), (0, 4)), ((2, 0), (2, 0))], ids=str
)
def test_pairwise_distance_shapes(shapes, keepdim):
    check("pairwise_distance", *(normal(*shape) for shape in shapes), keepdim=keepdim, tolerance=3e-5)


def test_pairwise_distance_of_scalars():
    x, y = normal(), normal()
    assert_close(F.pairwise_distance(x, y), torch.pairwise_distance(tensor(x), tensor(y)))


@pytest.mark.parametrize("shapes", [((4,), (4,)), ((2, 3, 4), (3, 1)), ((4, 1, 3), (2, 3)), ((2, 0), (2, 0))], ids=str)
def test_cosine_similarity(shapes):
    for dim in range(-1, max(len(shape) for shape in shapes)):
        operands = [normal(*shape) for shape in shapes]
        expected = torch.cosine_similarity(*map(tensor, operands), dim=dim)
        assert_close(F.cosine_similarity(*operands, dim=dim), expected)
    check("cosine_similarity", normal(3, 4), normal(4), dim=1)


def test_cosine_similarity_of_zero_and_short_vectors():
    x, y = np.array([[0, 0], [1, 0], [1e-9, 0]], np.float32), np.array([[1, 1], [0, 1], [1, 1]], np.float32)
    check("cosine_similarity", x, y)
    check("cosine_similarity", x, y, eps=2.0)


@pytest.mark.parametrize("shape", [(5, 3), (1, 3), (0, 3), (3, 0)], ids=str)
def test_pdist(shape):
    # torch's own gradient of nothing is a segmentation fault
    check("pdist", normal(*shape), fixed=() if shape == (5, 3) else (0,))
    gradient = jax.grad(lambda x: F.pdist(x).sum())(normal(*shape))
    assert gradient.shape == shape
    assert jnp.isfinite(gradient).all()


@settings(max_examples=10)
@given(st.integers(0, 5), st.integers(0, 3), st.sampled_from([0.0, 0.7, 1.0, 2.0, 4.0, np.inf]))
def test_pdist_of_any_size(rows, columns, p):
    x = normal(rows, columns)
    assert_close(F.pdist(x, p), torch.pdist(tensor(x), p), 3e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize("name", ["pairwise_distance", "cosine_similarity"])
def test_16_bits(name, dtype):
    check(name, normal(3, 4, dtype=dtype), normal(3, 4, dtype=dtype), tolerance=2e-2)
    assert F.pdist(jnp.ones((3, 4), dtype)).dtype == dtype


@pytest.mark.parametrize("dtypes", [(int, int), (np.float16, np.float32), (np.complex64, np.float32)], ids=str)
def test_pairwise_distance_promotes(dtypes):
    operands = [(normal(3, 4) * 3).astype(dtype) for dtype in dtypes]
    assert_close(F.pairwise_distance(*operands), torch.pairwise_distance(*map(tensor, operands)), 2e-3)


@pytest.mark.parametrize("name", ["pairwise_distance", "cosine_similarity", "pdist"])
def test_derivatives_of_any_order_and_batches(name):
    y = normal(3, 4)

    def summed(x):
        return (F.pdist(x) if name == "pdist" else getattr(F, name)(x, y)).sum()

    @jax.jit
    def both(x, v):
        reverse_over_forward = jax.grad(lambda x: jax.jvp(summed, (x,), (v,))[1])(x)
        forward_over_reverse = jax.jvp(jax.grad(summed), (x,), (v,))[1]
        return reverse_over_forward, forward_over_reverse, jax.vmap(jax.grad(summed))(x[None])[0], jax.grad(summed)(x)

    one, other, batched, plain = both(normal(3, 4), normal(3, 4))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batched, plain, rtol=1e-5, atol=1e-6)


X = normal(3, 4)


@pytest.mark.parametrize(
    ("name", "operands", "options", "words"),
    [
        ("pairwise_distance", (X, normal(3, 5)), {}, ["[3, 4]", "[3, 5]"]),
        ("pairwise_distance", (X > 0, X > 0), {}, ["bool"]),
        ("pairwise_distance", (normal(2, 0), normal(2, 0)), {"p": np.inf}, ["inf", "[2, 0]"]),
        ("pairwise_distance", (normal(2, 0), normal(2, 0)), {"p": -1.0}, ["-1.0", "[2, 0]"]),
        ("cosine_similarity", (X, normal(3, 5)), {}, ["[3, 4]", "[3, 5]"]),
        ("cosine_similarity", (X[0], X[0]), {}, ["[-1, 0]", "1"]),
        ("cosine_similarity", (integers(3, 2, 2), integers(3, 2, 2)), {}, ["int32"]),
        ("cosine_similarity", (X + 0j, X), {}, ["complex64"]),
        ("pdist", (normal(2, 3, 4),), {}, ["[2, 3, 4]"]),
        ("pdist", (X,), {"p": -1}, ["-1"]),
        ("pdist", (integers(3, 2, 2),), {}, ["int32"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_refuses(name, operands, options, words):
    assert_refused(lambda nn, array: getattr(nn.functional, name)(*map(array, operands), **options), *words)
