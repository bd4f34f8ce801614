"""Convolutions, plain and transposed, agree with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_close, assert_refused, normal, tensor, torch

import fnn.functional as F

SPACE = {1: (9,), 2: (9, 8), 3: (6, 5, 7)}


def operands(
    n, in_channels=4, out_channels=6, kernel=3, groups=1, bias=True, batch=(2,), dtype=np.float32, transposed=False, space=None
):
    kernel = (kernel,) * n if isinstance(kernel, int) else kernel
    channels = (in_channels, out_channels // groups) if transposed else (out_channels, in_channels // groups)
    return (
        normal(*batch, in_channels, *(space or SPACE[n]), dtype=dtype),
        normal(*channels, *kernel, dtype=dtype),
        normal(out_channels, dtype=dtype) if bias else None,
    )


def functions(n, transposed=False):
    name = f"conv_transpose{n}d" if transposed else f"conv{n}d"
    return getattr(F, name), getattr(torch.nn.functional, name)


def check(n, arrays, transposed=False, **options):
    assert_agree(*functions(n, transposed), *arrays, **options)


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


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_takes_16_bits(dtype, transposed):
    check(2, operands(2, dtype=dtype, transposed=transposed), transposed, padding=1, tolerance=2e-2)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": 2, "padding": 3, "dilation": 3, "output_padding": 2},
        {"stride": 3, "groups": 2},
    ],
    ids=str,
)
def test_transposes(n, options):
    check(n, operands(n, groups=options.get("groups", 1), transposed=True), True, **options)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_transposed_takes_inputs_without_a_batch_axis_or_a_bias(n):
    check(n, operands(n, batch=(), bias=False, transposed=True), True)


def test_transposed_takes_a_number_for_each_axis():
    options = {"stride": (2, 3), "padding": [1, 0], "output_padding": (0, 2), "dilation": (2, 1)}
    check(2, operands(2, kernel=(3, 2), transposed=True), True, **options)


def test_transposed_may_come_out_empty():
    check(2, operands(2, kernel=3, space=(2, 2), transposed=True), True, padding=2)


@st.composite
def convolutions(draw):
    n = draw(st.integers(1, 3))

    def numbers(low, high):
        one = st.integers(low, high)
        return draw(one | st.tuples(*[one] * n))

    transposed, groups = draw(st.booleans()), draw(st.integers(1, 3))
    shape = {
        "in_channels": groups * draw(st.integers(1, 2)),
        "out_channels": groups * draw(st.integers(1, 2)),
        "kernel": draw(st.tuples(*[st.integers(1, 3)] * n)),
        "groups": groups,
        "bias": draw(st.booleans()),
        "batch": draw(st.sampled_from([(), (2,), (0,)])),
        "space": draw(st.tuples(*[st.integers(2, 6)] * n)),
        "transposed": transposed,
    }
    options = {"stride": numbers(1, 3), "padding": numbers(0, 2), "dilation": numbers(1, 3), "groups": groups}
    return n, shape, options | ({"output_padding": numbers(0, 2)} if transposed else {})


@settings(max_examples=25)
@given(convolutions())
def test_any_configuration_agrees_or_is_refused(configuration):
    n, shape, options = configuration
    arrays, (ours, theirs) = operands(n, **shape), functions(n, shape["transposed"])
    try:
        expected = theirs(*(None if a is None else tensor(a) for a in arrays), **options)
    except RuntimeError as error:
        if "Output size is too small" in str(error):
            return  # torch says so for small inputs, and not for others
        with pytest.raises(RuntimeError):
            ours(*arrays, **options)
    else:
        if expected.numel() and shape["batch"] == (2,):
            check(n, arrays, shape["transposed"], **options)
        else:
            assert_close(ours(*arrays, **options), expected)


@pytest.mark.parametrize("bias", [False, True])
def test_of_no_channels_torch_makes_none(bias):
    check(2, operands(2, in_channels=0, bias=bias), padding=1)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_takes_whole_numbers(n, transposed):
    arrays = [(a * 5).astype(np.int64) for a in operands(n, transposed=transposed)]
    check(n, arrays, transposed, stride=2)


@pytest.mark.parametrize("transposed", [False, True])
def test_takes_complex_numbers(transposed):
    real, imaginary = (operands(2, groups=2, transposed=transposed) for _ in range(2))
    arrays = [(a + 1j * b).astype(np.complex64) for a, b in zip(real, imaginary, strict=True)]
    ours, theirs = functions(2, transposed)
    options = {"stride": 2, "padding": 1, "groups": 2}
    tensors = [tensor(a).requires_grad_() for a in arrays]
    expected = theirs(*tensors, **options)
    expected.abs().square().sum().backward()
    assert_close(ours(*arrays, **options), expected, 1e-5)

    def loss(*arrays):
        return jnp.square(jnp.abs(ours(*arrays, **options))).sum()

    for gradient, other in zip(jax.grad(loss, (0, 1, 2))(*arrays), tensors, strict=True):
        assert_close(jnp.conj(gradient), other.grad, 1e-5)  # torch's gradient is the conjugate of JAX's


@pytest.mark.parametrize(("pad", "kernel"), [(0, 3), (2, 3), (-1, 2), (0, 7), (1, 0)])
def test_tbc(pad, kernel):
    arrays = normal(7, 2, 3), normal(kernel, 3, 4), normal(4)
    assert_agree(F.conv_tbc, torch.nn.functional.conv_tbc, *arrays, pad, fixed=(1,) if kernel == 0 else ())


def test_tbc_takes_an_empty_batch():
    assert_agree(F.conv_tbc, torch.nn.functional.conv_tbc, normal(7, 0, 3), normal(3, 3, 4), normal(4))


@pytest.mark.parametrize(
    ("input", "weight", "bias", "pad", "words"),
    [
        ((7, 2), (3, 3, 4), (4,), 0, ["(7, 2)", "(time, batch, in_channels)"]),
        ((7, 2, 3), (3, 3), (4,), 0, ["(3, 3)"]),
        ((7, 2, 3), (3, 3, 4), (1, 4), 0, ["(1, 4)"]),
        ((7, 2, 3), (3, 2, 4), (4,), 0, ["(kernel_width, 3, out_channels)", "(3, 2, 4)"]),
        ((7, 2, 3), (3, 3, 4), (3,), 0, ["(3,)"]),
        ((7, 2, 3), (9, 3, 4), (4,), 0, ["9 steps", "7 steps"]),
        ((7, 2, 3), (3, 3, 4), (4,), 1.5, ["pad", "1.5"]),
    ],
    ids=str,
)
def test_tbc_refuses(input, weight, bias, pad, words):
    arrays = [normal(*shape) for shape in (input, weight, bias)]
    assert_refused(lambda nn, array: nn.functional.conv_tbc(*map(array, arrays), pad), *words)


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


@pytest.mark.parametrize(
    ("input", "weight", "bias", "options", "words"),
    [
        ((4, 4), (3, 2, 2, 2), None, {}, ["3D (unbatched) or 4D (batched)", "[4, 4]"]),
        ((1, 4, 4, 4), (3, 2, 2, 2), None, {}, ["3 channels", "4 channels", "[1, 4, 4, 4]"]),
        ((1, 4, 4, 4), (4, 2, 2, 2), None, {"groups": 3}, ["[4, 2, 2, 2]", "groups=3"]),
        ((1, 4, 4, 4), (4, 2, 2, 2), (2,), {"groups": 2}, ["(4,)", "(2,)"]),
        ((1, 4, 0, 4), (4, 2, 2, 2), None, {}, ["zero batch or zero channel", "[1, 4, 0, 4]"]),
        ((0, 4, 4), (0, 2, 2, 2), None, {}, ["[0, 2, 2, 2]"]),
        ((1, 4, 4, 4), (4, 2, 2, 2), None, {"padding": "same"}, ["padding", "same"]),
        ((1, 4, 4, 4), (4, 2, 2, 2), None, {"padding": -1}, ["negative padding", "-1"]),
        ((1, 4, 4, 4), (4, 2, 2, 2), None, {"padding": 6}, ["(2, 2)"]),
        ((1, 4, 4, 4), (4, 2, 2, 2), None, {"output_padding": -1}, ["output_padding=(-1, -1)"]),
        ((1, 4, 4, 4), (4, 2, 2, 2), None, {"output_padding": 2, "stride": 2}, ["output_padding=(2, 2)", "stride=(2, 2)"]),
        ((1, 4, 4, 4), (4, 2, 2, 2), None, {"output_padding": (1, 1, 1)}, ["output_padding", "2 values"]),
        ((1, 4, 4, 4), (4, 2, 2, 2), None, {"stride": 0}, ["stride=(0, 0)"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_transposed_refuses(input, weight, bias, options, words):
    def call(nn, array):
        nn.functional.conv_transpose2d(
            array(normal(*input)), array(normal(*weight)), None if bias is None else array(normal(*bias)), **options
        )

    assert_refused(call, *words)


@pytest.mark.parametrize(("transposed", "dtype"), [(False, bool), (True, bool), (True, np.uint8), (True, np.int16)])
def test_refuses_what_torch_has_no_product_of(transposed, dtype):
    name = functions(2, transposed)[0].__name__
    arrays = [a.astype(dtype) for a in operands(2, transposed=transposed)]
    assert_refused(lambda nn, array: getattr(nn.functional, name)(*map(array, arrays)), np.dtype(dtype).name)
