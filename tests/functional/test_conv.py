"""conv1d, conv2d and conv3d agree with torch."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_refused, normal, torch

import fnn.functional as F

SPACE = {1: (9,), 2: (9, 8), 3: (6, 5, 7)}


def operands(n, in_channels=4, out_channels=6, kernel=3, groups=1, bias=True, batch=(2,), dtype=np.float32):
    kernel = (kernel,) * n if isinstance(kernel, int) else kernel
    return (
        normal(*batch, in_channels, *SPACE[n], dtype=dtype),
        normal(out_channels, in_channels // groups, *kernel, dtype=dtype),
        normal(out_channels, dtype=dtype) if bias else None,
    )


def check(n, arrays, **options):
    name = f"conv{n}d"
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), *arrays, **options)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 2},
        {"stride": 3, "padding": 1, "dilation": 2},
        {"padding": "valid"},
        {"padding": "same", "dilation": 2},
    ],
    ids=str,
)
def test_strides_pads_and_dilates(n, options):
    check(n, operands(n), **options)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("n", "kernel"), [(1, 2), (1, 4), (2, 1), (2, (2, 3)), (3, 2)])
def test_pads_even_kernels_to_the_same_size(n, kernel):
    check(n, operands(n, kernel=kernel), padding="same")


@pytest.mark.parametrize(
    ("n", "in_channels", "groups", "out_channels"), [(1, 4, 2, 6), (2, 4, 2, 6), (2, 4, 4, 4), (3, 3, 3, 6)]
)
def test_convolves_groups_apart(n, in_channels, groups, out_channels):
    check(n, operands(n, in_channels, out_channels, groups=groups), groups=groups, padding=1)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_takes_inputs_without_a_batch_axis_or_a_bias(n):
    check(n, operands(n, batch=(), bias=False))


def test_takes_a_number_for_each_axis():
    check(2, operands(2, kernel=(3, 2)), stride=(2, 1), padding=(0, 2), dilation=(1, 3))
    check(2, operands(2), stride=(2,), padding=[1])


def test_takes_an_empty_batch():
    check(2, operands(2, batch=(0,)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_takes_16_bits(dtype):
    check(2, operands(2, dtype=dtype), padding=1, tolerance=2e-2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_16_bits_in_float32(dtype):
    assert F.conv1d(jnp.ones((4096, 1), dtype), jnp.ones((1, 4096, 1), dtype)) == 4096


@pytest.mark.parametrize(
    ("input", "weight", "bias", "options", "words"),
    [
        ((3,), (2, 3, 2, 2), None, {}, ["3D (unbatched) or 4D (batched)", "[3]"]),
        ((1, 1, 3, 4, 4), (2, 3, 2, 2), None, {}, ["4D", "[1, 1, 3, 4, 4]"]),
        ((1, 3, 4, 4), (2, 3, 2), None, {}, ["4D weight", "(2, 3, 2)"]),
        ((1, 4, 4, 4), (2, 3, 2, 2), None, {}, ["3 channels", "4 channels", "[1, 4, 4, 4]", "[2, 3, 2, 2]"]),
        ((1, 4, 4, 4), (3, 2, 2, 2), None, {"groups": 2}, ["[3, 2, 2, 2]", "groups=2"]),
        ((1, 4, 4, 4), (2, 4, 2, 2), None, {"groups": 0}, ["groups", "0"]),
        ((1, 3, 4, 4), (2, 3, 2, 2), (3,), {}, ["(2,)", "(3,)"]),
        ((1, 3, 1, 1), (2, 3, 2, 2), None, {}, ["(1, 1)", "(2, 2)"]),
        ((1, 3, 4, 4), (2, 3, 0, 2), None, {}, ["[2, 3, 0, 2]"]),
        ((1, 3, 4, 4), (2, 3, 2, 2), None, {"stride": 0}, ["stride=(0, 0)"]),
        ((1, 3, 4, 4), (2, 3, 2, 2), None, {"stride": 1.5}, ["stride", "1.5"]),
        ((1, 3, 4, 4), (2, 3, 2, 2), None, {"stride": (1, 1, 1)}, ["stride", "2 values", "(1, 1, 1)"]),
        ((1, 3, 4, 4), (2, 3, 2, 2), None, {"dilation": 0}, ["dilation=(0, 0)"]),
        ((1, 3, 4, 4), (2, 3, 2, 2), None, {"padding": -1}, ["negative padding", "-1"]),
        ((1, 3, 4, 4), (2, 3, 2, 2), None, {"padding": "full"}, ["full", "same", "valid"]),
        ((1, 3, 4, 4), (2, 3, 2, 2), None, {"padding": "same", "stride": 2}, ["same", "strided"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_refuses(input, weight, bias, options, words):
    def call(nn, array):
        nn.functional.conv2d(
            array(normal(*input)), array(normal(*weight)), None if bias is None else array(normal(*bias)), **options
        )

    assert_refused(call, *words)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_refuses_mixed_dtypes(place):
    arrays = list(operands(1))
    arrays[place] = arrays[place].astype(np.float16)
    assert_refused(lambda nn, array: nn.functional.conv1d(*map(array, arrays)), "float16", "float32")
