"""pad agrees with torch."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_refused, normal, tensor, torch

import fnn.functional as F


def check(input, pad, mode="constant", value=None):
    assert_agree(F.pad, torch.nn.functional.pad, input, pad, mode, value)


@pytest.mark.parametrize("pad", [(), (1, 2), [0, 1, 2, 0], (1, -1, -2, 3, 0, 1), (-2, -2), (-3, 1)], ids=str)
@pytest.mark.parametrize("value", [None, 2.5])
def test_constant(pad, value):
    check(normal(2, 3, 4), pad, value=value)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.int32, bool])
def test_constant_keeps_the_dtype(dtype):
    check(normal(2, 3).astype(dtype), (1, 2), value=1)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("shape", "pad"),
    [
        ((2, 3, 5), (2, 3)),
        ((3, 5), (4, 1)),
        ((2, 3, 4, 5), (1, 2, 3, 0)),
        ((3, 4, 5), (1, 2, 3, 0)),
        ((1, 2, 3, 4, 5), (1, 2, 2, 1, 0, 2)),
        ((2, 3, 4, 5), (1, 2, 1, 0, 2, 1)),
        ((0, 3, 5), (2, 1)),
        ((2, 3, 5), (0, 0)),
    ],
    ids=str,
)
def test_continues_the_input(mode, shape, pad):
    check(normal(*shape), pad, mode)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("pad", [(-1, 3), (3, -1), (-3, 1), (-2, 2), (-1, -2)], ids=str)
def test_cuts_with_negative_pads(mode, pad):
    check(normal(2, 3, 5), pad, mode)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_one_of_two_sizes_may_become_nothing(mode):
    x = normal(1, 2, 3)
    np.testing.assert_array_equal(F.pad(x, (1, 1, 0, -2), mode), torch.nn.functional.pad(tensor(x), (1, 1, 0, -2), mode))


def test_replicates_before_it_cuts():
    check(normal(2, 3, 1), (2, -2), "replicate")


@pytest.mark.parametrize("value", [None, 0.0])
def test_replicates_further_than_the_input_is_long(value):
    check(normal(2, 3, 2), (5, 7), "replicate", value)


@pytest.mark.parametrize(
    ("shape", "args", "words"),
    [
        ((2, 3), ((1,),), ["divisible by 2", "(1,)"]),
        ((2, 3), ((1,) * 6,), ["at most twice", "(2, 3)"]),
        ((2, 3), ((1.5, 1),), ["pad", "1.5"]),
        ((2, 3), ((-2, -2),), ["(-2, -2)", "dimension 1", "(2, 3)"]),
        ((2, 3), ((1, 1), "mirror"), ["mirror"]),
        ((2, 3), ((1, 1), "reflect", 1.0), ["reflect", "value"]),
        ((2, 3, 4), ((4, 4), "reflect"), ["reflect", "(4, 4)", "dimension 2", "(2, 3, 4)"]),
        ((2, 3, 4), ((5, 5), "circular"), ["circular", "(5, 5)", "dimension 2"]),
        ((2, 3, 4), ((-2, -2), "reflect"), ["(-2, -2)", "[0]"]),
        ((2, 3, 0), ((1, 1), "replicate"), ["(1, 1)", "(2, 3, 0)"]),
        ((2, 3), ((), "circular"), ["2D, 3D, 4D, 5D", "()", "(2, 3)"]),
        ((2, 3, 4, 1), ((1, 1), "reflect"), ["2D, 3D, 4D, 5D", "(1, 1)", "(2, 3, 4, 1)"]),
        ((2, 3), (np.array([1, 1]),), ["pad", "ndarray"]),
        ((2, 3), ((True, 1),), ["pad", "True"]),
        ((2, 3), ((1, 1), None), ["mode", "NoneType"]),
        ((2, 3), ((1, 1), "constant", "0"), ["value", "str"]),
        ((2, 3), ((1, 1), "constant", 1e300), ["1e+300", "float32"]),
        ((2, 0, 4), ((1, 1), "reflect"), ["non-zero", "[2, 0, 4]"]),
        ((0, 3, 4), ((1, 1, 1, 1), "replicate"), ["non-zero", "[0, 3, 4]"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_refuses(shape, args, words):
    assert_refused(lambda nn, array: nn.functional.pad(array(normal(*shape)), *args), *words)


@pytest.mark.parametrize(
    ("dtype", "mode", "value", "words"),
    [
        (np.uint8, "constant", -1, ["-1", "uint8"]),
        (np.int32, "constant", np.nan, ["nan", "int32"]),
        (np.float16, "constant", 1e6, ["1000000", "float16"]),
        (bool, "reflect", None, ["reflect", "bool"]),
    ],
)
def test_refuses_dtypes(dtype, mode, value, words):
    x = np.ones((2, 3, 4), dtype)
    assert_refused(lambda nn, array: nn.functional.pad(array(x), (1, 1), mode, value), *words)


@settings(max_examples=12)
@given(st.data())
def test_any_pad(data):
    mode = data.draw(st.sampled_from(["constant", "reflect", "replicate", "circular"]))
    axes = data.draw(st.integers(1, 3))
    shape = [data.draw(st.integers(1, 4)) for _ in range(axes + data.draw(st.integers(1, 2)))]
    low = 0 if mode == "circular" else -2  # torch reads memory that it has not written where circular cuts and wraps
    pads = [data.draw(st.integers(low, 4)) for _ in range(2 * axes)]
    x = normal(*shape)
    try:
        expected = torch.nn.functional.pad(tensor(x), pads, mode)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            F.pad(x, pads, mode)
        return
    np.testing.assert_array_equal(F.pad(x, pads, mode), expected)
