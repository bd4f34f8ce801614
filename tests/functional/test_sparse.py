"""embedding agrees with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_close, assert_refused, integers, normal, tensor, torch

import fnn
import fnn.functional as F
from fnn.nn import Parameter


def check(index, table, **options):
    assert_agree(F.embedding, torch.nn.functional.embedding, index, table, **options)


@pytest.mark.parametrize("shape", [(), (6,), (2, 3, 4), (0,)], ids=str)
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_looks_rows_up(shape, dtype):
    check(integers(5, *shape).astype(dtype), normal(5, 3))


@pytest.mark.parametrize(
    "options",
    [
        {"padding_idx": 1},
        {"padding_idx": -2},
        {"scale_grad_by_freq": True},
        {"padding_idx": 0, "scale_grad_by_freq": True, "sparse": False},
    ],
    ids=str,
)
def test_gradient(options):
    check(np.array([[0, 1, 1], [3, 4, 3]]), normal(5, 3), **options)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.int32])
def test_keeps_the_dtype_of_the_table(dtype):
    check(integers(5, 4), (normal(5, 3) * 9).astype(dtype), padding_idx=1, scale_grad_by_freq=True)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.5, float("inf")])
def test_max_norm_scales_the_rows_that_are_looked_up(norm_type):
    index, table = np.array([1, 1, 3]), normal(5, 3) * 3
    theirs, ours = tensor(table).requires_grad_(), Parameter(table)
    options = {"max_norm": 1.5, "norm_type": norm_type}
    expected = torch.nn.functional.embedding(tensor(index), theirs, **options)
    expected.square().sum().backward()
    assert_close(F.embedding(index, table, **options), expected)
    assert_close(F.embedding(index, ours, **options), expected)
    assert_close(ours.value, theirs)
    gradient = jax.grad(lambda w: jnp.square(F.embedding(index, w, **options)).sum())(jnp.asarray(table))
    assert_close(gradient, theirs.grad)


def test_gives_nan_for_an_index_that_is_out_of_range_while_tracing():
    rows = jax.jit(F.embedding)(jnp.array([1, 5, -1]), jnp.ones((5, 2)))
    assert jnp.isnan(rows).tolist() == [[False] * 2, [True] * 2, [True] * 2]


def test_checks_constant_indices_while_tracing():
    index = jnp.array([1, 5])
    with pytest.raises(IndexError, match="from 1 to 5 for 5 rows"):
        jax.jit(lambda table: F.embedding(index, table))(jnp.ones((5, 2)))
    assert jax.jit(lambda table: F.embedding(index, table))(jnp.ones((6, 2))).tolist() == [[1.0] * 2] * 2


def test_takes_traced_indices_under_fnn_jit():
    table = fnn.nn.Embedding(5, 2)
    index = jnp.array([1, 4])
    assert (fnn.jit(table)(index) == table(index)).all()


@pytest.mark.parametrize(
    ("index", "table", "options", "words"),
    [
        (np.array([4]), normal(4, 3), {}, ["from 4 to 4", "4 rows"]),
        (np.array([0, -1]), normal(4, 3), {}, ["from -1 to 0", "4 rows"]),
        (np.array([1.0], np.float32), normal(4, 3), {}, ["indices", "int64", "float32"]),
        (np.array([1], np.uint8), normal(4, 3), {}, ["indices", "int64", "uint8"]),
        (np.array([1]), normal(4), {}, ["2-D", "(4,)"]),
        (np.array([1]), normal(4, 3), {"padding_idx": 4}, ["within num_embeddings", "4"]),
        (np.array([1]), normal(4, 3), {"padding_idx": -5}, ["within num_embeddings", "-5"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_refuses(index, table, options, words):
    assert_refused(lambda nn, array: nn.functional.embedding(array(index), array(table), **options), *words)
