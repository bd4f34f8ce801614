"""unfold and fold agree with torch."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_close, assert_refused, normal, tensor, torch

import fnn.functional as F

OPTIONS = [
    {"kernel_size": 2},
    {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2)},
    {"kernel_size": 3, "stride": 3},
    {"kernel_size": [3, 2], "dilation": (1, 2), "padding": 1, "stride": 2},
]


def check(name, input, **options):
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), input, **options)


def columns(*shape, **options):
    """What unfold makes of images of a shape, with other values."""
    return normal(*F.unfold(jnp.zeros(shape), **options).shape)


@pytest.mark.parametrize("batch", [(), (2,), (0,)], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_unfold(options, batch):
    check("unfold", normal(*batch, 3, 6, 7), **options)


@pytest.mark.parametrize("batch", [(), (2,), (0,)], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_fold(options, batch):
    check("fold", columns(*batch, 3, 6, 7, **options), output_size=(6, 7), **options)


@settings(max_examples=15)
@given(*[st.tuples(st.integers(1, high), st.integers(1, high)) for high in (7, 3, 2, 3)], st.integers(0, 2))
def test_any_configuration_agrees_or_is_refused(space, kernel, dilation, stride, padding):
    options = {"kernel_size": kernel, "dilation": dilation, "stride": stride, "padding": padding}
    x = normal(2, 1, *space)
    try:
        expected = torch.nn.functional.unfold(tensor(x), **options)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            F.unfold(x, **options)
    else:
        assert_close(F.unfold(x, **options), expected)
        check("fold", normal(*expected.shape), output_size=space, **options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_place(value):
    x = np.zeros((1, 4, 4), np.float32)
    x[0, 1, 2] = value
    check("unfold", x, kernel_size=2)
    check("fold", x[0, :, :1] + x[0, 1], kernel_size=2, output_size=(2, 5))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_takes_16_bits(dtype):
    check("unfold", normal(2, 3, 4, 4, dtype=dtype), kernel_size=2)
    check("fold", normal(2, 12, 9, dtype=dtype), kernel_size=2, output_size=(4, 4))


@pytest.mark.parametrize("dtype", [bool, np.complex64])
@pytest.mark.parametrize(("name", "shape", "options"), [("unfold", (3, 4, 4), {}), ("fold", (12, 9), {"output_size": 4})])
def test_takes_booleans_and_complex_numbers(name, shape, options, dtype):
    x = (normal(*shape) > 0).astype(dtype)
    ours, theirs = (getattr(f, name) for f in (F, torch.nn.functional))
    assert_close(ours(x, kernel_size=2, **options), theirs(tensor(x), kernel_size=2, **options))


@pytest.mark.parametrize(
    ("name", "shape", "options", "words"),
    [
        ("unfold", (4, 4), {"kernel_size": 2}, ["3D or 4D", "[4, 4]"]),
        ("unfold", (1, 1, 1, 4, 4), {"kernel_size": 2}, ["3D or 4D", "[1, 1, 1, 4, 4]"]),
        ("unfold", (2, 0, 4, 4), {"kernel_size": 2}, ["non-zero", "[2, 0, 4, 4]"]),
        ("unfold", (1, 4, 4), {"kernel_size": 0}, ["greater than zero", "kernel_size=(0, 0)"]),
        ("unfold", (1, 4, 4), {"kernel_size": 2, "stride": 0}, ["greater than zero", "stride=(0, 0)"]),
        ("unfold", (1, 4, 4), {"kernel_size": 2, "dilation": (1, 0)}, ["greater than zero", "dilation=(1, 0)"]),
        ("unfold", (1, 4, 4), {"kernel_size": 2, "padding": -1}, ["non-negative", "padding=(-1, -1)"]),
        ("unfold", (1, 4, 4), {"kernel_size": 5}, ["(4, 4)", "(0, 0) windows", "(5, 5)"]),
        ("unfold", (1, 4, 4), {"kernel_size": 2.5}, ["kernel_size", "2.5"]),
        ("unfold", (1, 4, 4), {"kernel_size": (2,)}, ["kernel_size", "(2,)"]),
        ("unfold", (1, 4, 4), {"kernel_size": (2, 2, 2)}, ["kernel_size", "(2, 2, 2)"]),
        ("fold", (12,), {"kernel_size": 2, "output_size": 4}, ["2D or 3D", "[12]"]),
        ("fold", (2, 12, 0), {"kernel_size": 2, "output_size": 4}, ["non-zero", "[2, 12, 0]"]),
        ("fold", (11, 9), {"kernel_size": 2, "output_size": 4}, ["divisible", "[11, 9]", "(2, 2)"]),
        ("fold", (12, 8), {"kernel_size": 2, "output_size": 4}, ["(4, 4)", "9 windows", "has 8"]),
        ("fold", (12, 1), {"kernel_size": 2, "output_size": 0, "padding": 1}, ["(0, 0)"]),
        ("fold", (12, 9), {"kernel_size": 2, "output_size": (4,)}, ["output_size", "(4,)"]),
    ],
    ids=str,
)
def test_refuses(name, shape, options, words):
    assert_refused(lambda nn, array: getattr(nn.functional, name)(array(normal(*shape)), **options), *words)


@pytest.mark.parametrize(("name", "options"), [("unfold", {}), ("fold", {"output_size": 2})])
def test_refuses_whole_numbers(name, options):
    x = np.ones((1, 4, 1) if name == "fold" else (1, 4, 4), np.int32)
    assert_refused(lambda nn, array: getattr(nn.functional, name)(array(x), kernel_size=2, **options), "int32")
