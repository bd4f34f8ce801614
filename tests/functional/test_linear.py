"""linear agrees with torch."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_refused, normal, torch

import fnn.functional as F


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
def test_maps_the_last_axis(lead, bias, dtype):
    operands = [normal(*lead, 5, dtype=dtype), normal(4, 5, dtype=dtype), normal(4, dtype=dtype) if bias else None]
    assert_agree(F.linear, torch.nn.functional.linear, *operands)


def test_takes_a_weight_of_one_axis():
    assert_agree(F.linear, torch.nn.functional.linear, normal(2, 3, 5), normal(5))


def test_takes_integers_and_no_features():
    assert_agree(F.linear, torch.nn.functional.linear, np.array([[1, 2]]), np.array([[3, 4], [5, 6]]))
    assert_agree(F.linear, torch.nn.functional.linear, normal(3, 0), normal(2, 0), normal(2))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_16_bits_in_float32(dtype):
    ones = jnp.ones(4096, dtype)
    assert F.linear(ones, ones) == 4096


@pytest.mark.parametrize(
    ("input", "weight", "bias", "words"),
    [
        (normal(3, 4), normal(5, 3), None, ["(*, 3)", "(3, 4)"]),
        (normal(3, 4), normal(5, 4), normal(4), ["(5,)", "(4,)"]),
        (normal(3, 4), normal(5, 4, 4), None, ["1 or 2", "(5, 4, 4)"]),
        (np.float32(1), normal(5, 1), None, ["(*, 1)", "()"]),
        (normal(3, 4), normal(5, 4, dtype=np.float16), None, ["float32", "float16"]),
        (normal(3, 4), normal(5, 4), normal(5, dtype=np.float16), ["float32", "float16"]),
        (np.ones((3, 4), int), normal(5, 4), None, ["int32", "float32"]),
    ],
    ids=["input size", "bias size", "weight rank", "scalar", "weight dtype", "bias dtype", "integers"],
)
def test_refuses(input, weight, bias, words):
    def call(nn, array):
        nn.functional.linear(array(input), array(weight), None if bias is None else array(bias))

    assert_refused(call, *words)


@pytest.mark.parametrize("name", ["input", "weight"])
def test_refuses_what_is_no_array(name):
    operands = {"input": normal(3, 4), "weight": normal(5, 4)}
    assert_refused(
        lambda nn, array: nn.functional.linear(**{k: None if k == name else array(v) for k, v in operands.items()}), name
    )
