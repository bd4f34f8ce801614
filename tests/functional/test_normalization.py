"""layer_norm agrees with torch."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_refused, normal, torch

import fnn.functional as F


def check(input, shape, weight, bias, **options):
    tolerance = 1e-4 if input.dtype == np.float32 else 4e-2
    assert_agree(F.layer_norm, torch.nn.functional.layer_norm, input, shape, weight, bias, tolerance=tolerance, **options)


@pytest.mark.parametrize("shape", [(5,), [4, 5], (3, 4, 5), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("affine", ["", "weight", "bias", "weight bias"])
def test_normalizes_the_last_axes(shape, affine):
    weight, bias = (normal(*shape) if name in affine else None for name in ("weight", "bias"))
    check(normal(2, 3, 4, 5) + 1, shape, weight, bias, eps=0.01)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize("own", [True, False])
def test_takes_16_bits_with_parameters_of_16_bits_or_float32(dtype, own):
    other = dtype if own else np.float32
    check(normal(6, 8, dtype=dtype), (8,), normal(8, dtype=other), normal(8, dtype=other))


def test_takes_an_empty_batch():
    check(normal(0, 4), (4,), normal(4), normal(4))


def test_computes_16_bits_in_float32():
    row = jnp.concatenate([jnp.full(2048, 256.0), jnp.full(2048, 258.0)]).astype(jnp.bfloat16)
    assert F.layer_norm(row, (4096,)).tolist() == [-1.0] * 2048 + [1.0] * 2048


@pytest.mark.parametrize(
    ("input", "shape", "weight", "bias", "words"),
    [
        (normal(2, 4), (3,), None, None, ["[*, 3]", "[2, 4]"]),
        (normal(2, 4), (1, 2, 4), None, None, ["[*, 1, 2, 4]", "[2, 4]"]),
        (normal(2, 4), (), None, None, ["at least 1-dimensional", "()"]),
        (normal(2, 4), (4,), normal(3), None, ["weight", "(4,)", "(3,)"]),
        (normal(2, 4), (4,), None, normal(3), ["bias", "(4,)", "(3,)"]),
        (normal(2, 4), (4,), normal(4, dtype=np.float16), None, ["float32", "weight float16"]),
        (np.ones((2, 4), int), (4,), None, None, ["int32", "floating-point"]),
    ],
    ids=["size", "rank", "no axes", "weight", "bias", "weight dtype", "integers"],
)
def test_refuses(input, shape, weight, bias, words):
    def call(nn, array):
        nn.functional.layer_norm(array(input), shape, *(None if v is None else array(v) for v in (weight, bias)))

    assert_refused(call, *words)
