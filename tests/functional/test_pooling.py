"""Pooling agrees with torch."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_refused, normal, torch

import fnn.functional as F

SPACE = {1: (9,), 2: (9, 8), 3: (6, 7, 5)}


def check(n, input, *args, **options):
    name = f"max_pool{n}d"
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), input, *args, **options)


OPTIONS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "dilation": 2},
    {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
    {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True},
]


@pytest.mark.parametrize("return_indices", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_max_pool(n, options, return_indices):
    check(n, normal(2, 3, *SPACE[n]), **options, return_indices=return_indices)


@pytest.mark.parametrize("return_indices", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_max_pool_takes_inputs_without_a_batch_axis(n, return_indices):
    check(n, normal(3, *SPACE[n]), 2, return_indices=return_indices)


def test_max_pool_takes_a_number_for_each_axis():
    check(2, normal(2, 3, 9, 8), (3, 2), stride=(1, 2), padding=(1, 0))
    check(2, normal(2, 3, 9, 8), [2], [])


@pytest.mark.parametrize("options", [{}, {"return_indices": True}, {"dilation": 2}], ids=str)
def test_max_pool_takes_an_empty_batch(options):
    check(2, normal(0, 3, 4, 4), 2, **options)


def test_max_pool_of_padding_alone_is_minus_infinity():
    check(1, normal(1, 3), 2, padding=1, dilation=4)


@pytest.mark.parametrize("options", OPTIONS[1:3], ids=["", "dilation"])
@pytest.mark.parametrize("return_indices", [False, True])
def test_max_pool_gives_the_gradient_of_a_tie_to_the_first(options, return_indices):
    x = np.random.default_rng(0).integers(0, 3, (2, 3, 9, 8)).astype(np.float32)
    check(2, x, **options, return_indices=return_indices)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.int32, np.uint8])
@pytest.mark.parametrize("return_indices", [False, True])
def test_max_pool_takes_other_dtypes(dtype, return_indices):
    check(2, (normal(2, 3, 6, 6) * 9).astype(dtype), 3, 2, 1, return_indices=return_indices)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_max_pool_finds_what_is_not_finite(value):
    x = normal(1, 1, 6, 6)
    x[0, 0, 1, 2] = x[0, 0, 4, :] = value
    assert_agree(F.max_pool2d, torch.nn.functional.max_pool2d, x, 2, return_indices=True, fixed=(0,))
    check(2, np.full((1, 3, 3), -np.inf, np.float32), 2, 1, 1, return_indices=True)


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((4, 4), {"kernel_size": 2}, ["3D or 4D", "[4, 4]"]),
        ((1, 1, 1, 4, 4), {"kernel_size": 2}, ["3D or 4D", "[1, 1, 1, 4, 4]"]),
        ((1, 4, 4), {"kernel_size": 0}, ["positive", "(0, 0)"]),
        ((1, 4, 4), {"kernel_size": 2, "stride": 0}, ["positive", "(0, 0)"]),
        ((1, 4, 4), {"kernel_size": 2, "dilation": 0}, ["positive", "(0, 0)"]),
        ((1, 4, 4), {"kernel_size": 2, "padding": 2}, ["half of kernel size", "pad=(2, 2)", "(2, 2)"]),
        ((1, 9, 9), {"kernel_size": 2, "padding": 2, "dilation": 4}, ["half of kernel size", "pad=(2, 2)"]),
        ((1, 4, 4), {"kernel_size": 2, "padding": -1}, ["non-negative", "pad=(-1, -1)"]),
        ((1, 4, 4), {"kernel_size": 5}, ["[1, 4, 4]", "[0, 0]", "too small"]),
        ((1, 4, 4), {"kernel_size": 2.5}, ["kernel_size", "2.5"]),
        ((1, 4, 4), {"kernel_size": (2, 2, 2)}, ["kernel_size", "2 values", "(2, 2, 2)"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_max_pool_refuses(shape, options, words):
    assert_refused(lambda nn, array: nn.functional.max_pool2d(array(normal(*shape)), **options), *words)


@pytest.mark.parametrize("dtype", [bool, np.complex64])
def test_max_pool_refuses_what_has_no_order(dtype):
    x = np.ones((1, 4, 4), dtype)
    assert_refused(lambda nn, array: nn.functional.max_pool2d(array(x), 2), "real", np.dtype(dtype).name)


@pytest.mark.parametrize("size", [1, 3, 8, 11, (2, 5), (None, 3), (4, None), 0], ids=str)
@pytest.mark.parametrize("batch", [(), (2,), (0,)], ids=str)
def test_adaptive_avg_pool2d(size, batch):
    fixed = (0,) if size == 0 else ()  # torch has no gradient of it
    x = normal(*batch, 3, 8, 6)
    assert_agree(F.adaptive_avg_pool2d, torch.nn.functional.adaptive_avg_pool2d, x, size, fixed=fixed)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize("size", [1, 4, 7])
def test_adaptive_avg_pool2d_averages_16_bits_in_float32(dtype, size):
    assert_agree(F.adaptive_avg_pool2d, torch.nn.functional.adaptive_avg_pool2d, normal(3, 8, 8, dtype=dtype), size)
    assert (F.adaptive_avg_pool2d(jnp.ones((1, 99, 99), dtype), size) == 1).all()


@pytest.mark.parametrize(
    ("shape", "size", "words"),
    [
        ((4, 4), 2, ["3D or 4D", "[4, 4]"]),
        ((1, 1, 4, 4), (1, 2, 3), ["output_size", "2", "3"]),
        ((1, 4, 4), -1, ["greater than or equal to 0", "-1"]),
        ((1, 0, 4), 2, ["non-zero", "[1, 0, 4]"]),
        ((1, 4, 4), 2.5, ["output_size", "2.5"]),
    ],
    ids=str,
)
def test_adaptive_avg_pool2d_refuses(shape, size, words):
    assert_refused(lambda nn, array: nn.functional.adaptive_avg_pool2d(array(normal(*shape)), size), *words)


def test_adaptive_avg_pool2d_refuses_integers():
    x = np.ones((1, 4, 4), int)
    assert_refused(lambda nn, array: nn.functional.adaptive_avg_pool2d(array(x), 2), "int32", "floating-point")
