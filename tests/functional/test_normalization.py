"""Normalization over features and channels agrees with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_close, assert_refused, normal, torch

import fnn.functional as F
from fnn.nn import Buffer

TORCH = torch.nn.functional
SIXTEEN = [jnp.bfloat16, np.float16]


def check(name, input, *args, tolerance=None, **options):
    tolerance = tolerance or (1e-4 if input.dtype == np.float32 else 4e-2)
    assert_agree(getattr(F, name), getattr(TORCH, name), input, *args, tolerance=tolerance, **options)


@pytest.mark.parametrize("shape", [(5,), [4, 5], (3, 4, 5), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("affine", ["", "weight", "bias", "weight bias"])
def test_layer_norm_normalizes_the_last_axes(shape, affine):
    weight, bias = (normal(*shape) if name in affine else None for name in ("weight", "bias"))
    check("layer_norm", normal(2, 3, 4, 5) + 1, shape, weight, bias, eps=0.01)


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("name", "size"), [("layer_norm", (8,)), ("group_norm", 2)])
def test_16_bits_with_parameters_of_16_bits_or_float32(name, size, dtype, own):
    other = dtype if own else np.float32
    check(name, normal(6, 8, dtype=dtype), size, normal(8, dtype=other), normal(8, dtype=other))


@pytest.mark.parametrize(
    ("name", "args"), [("layer_norm", ((4,),)), ("rms_norm", ((4,),)), ("group_norm", (2,)), ("normalize", ())]
)
def test_empty_batch(name, args):
    check(name, normal(0, 4), *args, *([normal(4)] if name != "normalize" else []))


def test_empty_space():
    check("group_norm", normal(2, 4, 0), 2, normal(4), normal(4), fixed=(2,))  # whose gradient is NaN in torch
    check("local_response_norm", normal(2, 4, 0), 2)


@pytest.mark.parametrize("name", ["layer_norm", "group_norm"])
def test_computes_16_bits_in_float32(name):
    row = jnp.concatenate([jnp.full(2048, 256.0), jnp.full(2048, 258.0)]).astype(jnp.bfloat16)
    y = F.layer_norm(row, (4096,)) if name == "layer_norm" else F.group_norm(row[None], 1)[0]
    assert y.tolist() == [-1.0] * 2048 + [1.0] * 2048


@pytest.mark.parametrize("eps", [None, 0.1])
@pytest.mark.parametrize("shape", [(5,), (4, 5)], ids=str)
def test_rms_norm(shape, eps):
    check("rms_norm", normal(3, 4, 5) + 1, shape, normal(*shape), eps)
    check("rms_norm", normal(3, 4, 5) * 1e-3, shape, None, eps)


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("other", [np.float32, jnp.bfloat16, np.float16])
def test_rms_norm_takes_a_weight_of_another_dtype(dtype, other):
    check("rms_norm", normal(6, 8, dtype=dtype), (8,), normal(8, dtype=other))


def test_rms_norm_takes_complex_numbers():
    x = normal(3, 5) + 1j * normal(3, 5)
    expected = TORCH.rms_norm(torch.tensor(x), (5,))
    np.testing.assert_allclose(F.rms_norm(jnp.asarray(x), (5,)), expected.numpy(), rtol=1e-5)


@settings(max_examples=8)
@given(st.data())
def test_group_norm(data):
    groups, each, batch = (data.draw(st.integers(1, 3)) for _ in range(3))
    space = data.draw(st.lists(st.integers(2, 3), min_size=1, max_size=3))  # of one value torch has only noise
    channels = groups * each
    shape = (batch + 1, channels, *space)
    parts = [normal(channels) for _ in range(data.draw(st.integers(0, 2)))]
    check("group_norm", normal(*shape), groups, *parts, eps=0.1)


def test_group_norm_takes_a_bias_alone():
    check("group_norm", normal(2, 4, 3), 2, None, normal(4), fixed=(0, 3))  # torch has no gradient of it


@settings(max_examples=8)
@given(st.data())
def test_local_response_norm(data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=3, max_size=5))
    check("local_response_norm", normal(*shape), data.draw(st.integers(1, 7)), 2.0, data.draw(st.sampled_from([0.75, 2.0])))


@pytest.mark.parametrize("dtype", [*SIXTEEN, np.int64])
def test_local_response_norm_takes_other_dtypes(dtype):
    check("local_response_norm", (normal(2, 5, 3) * 9).astype(dtype), 3, fixed=(0,))


@pytest.mark.parametrize("p", [2, 0, 1, np.inf, -np.inf, 0.5, 1.5, 3, -1, "fro", None])
@pytest.mark.parametrize("dim", [1, (0, -1), None], ids=str)
def test_normalize_with_ties_and_zeros(p, dim):
    x = np.random.default_rng(0).integers(-2, 3, (3, 4, 2)).astype(np.float32)
    x[0] = 0
    check("normalize", x, p, dim)


def test_normalize_gives_all_of_the_gradient_to_a_norm_that_is_eps():
    check("normalize", np.array([[3.0, 4.0], [0.3, 0.4]], np.float32), eps=5.0)


def test_normalize_takes_complex_numbers_and_nan():
    x = normal(3, 5) + 1j * normal(3, 5)
    np.testing.assert_allclose(F.normalize(jnp.asarray(x)), TORCH.normalize(torch.tensor(x)).numpy(), rtol=1e-5)
    bad = np.array([[np.nan, 1, 2], [np.inf, 1, 2]], np.float32)
    assert_agree(F.normalize, TORCH.normalize, bad, fixed=(0,))


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_normalize_computes_16_bits_in_float32(dtype):
    check("normalize", normal(3, 400, dtype=dtype))
    assert F.normalize(jnp.full((1, 100), 500.0, jnp.float16)).tolist() == [[float(np.float16(0.1))] * 100]


def test_normalize_writes_a_buffer_given_as_out():
    x, out = normal(2, 3), Buffer(np.zeros((2, 3), np.float32))
    y = F.normalize(x, out=out)
    assert (out.value == y).all()
    assert_close(y, TORCH.normalize(torch.tensor(x)))
    with pytest.raises(TypeError, match="Buffer"):
        F.normalize(x, out=jnp.zeros((2, 3)))


@pytest.mark.parametrize("p", [2, 1, 0.5])
def test_normalize_has_a_second_derivative_at_zero(p):
    hessian = jax.hessian(lambda x: F.normalize(x, p, dim=0).sum())(jnp.array([0.0, 0.0]))
    assert np.isfinite(hessian).all()


X = normal(2, 4)
INTEGERS = np.ones((2, 4, 3), int)


@pytest.mark.parametrize(
    ("name", "input", "args", "words"),
    [
        ("layer_norm", X, ((3,),), ["[*, 3]", "[2, 4]"]),
        ("layer_norm", X, ((1, 2, 4),), ["[*, 1, 2, 4]", "[2, 4]"]),
        ("layer_norm", X, ((),), ["at least 1-dimensional", "()"]),
        ("layer_norm", X, (4,), []),
        ("layer_norm", X, ((4,), normal(3)), ["weight", "(4,)", "(3,)"]),
        ("layer_norm", X, ((4,), None, normal(3)), ["bias", "(4,)", "(3,)"]),
        ("layer_norm", X, ((4,), normal(4, dtype=np.float16)), ["float32", "weight float16"]),
        ("layer_norm", INTEGERS, ((3,),), ["int32", "floating-point"]),
        ("rms_norm", X, ((3,),), ["[*, 3]", "[2, 4]"]),
        ("rms_norm", X, ((),), ["at least 1-dimensional", "()"]),
        ("rms_norm", X, ((4,), normal(3)), ["weight", "(4,)", "(3,)"]),
        ("rms_norm", INTEGERS, ((3,),), ["int32", "floating-point"]),
        ("group_norm", normal(4), (2,), ["at least 2", "1"]),
        ("group_norm", X, (3,), ["divisible", "[2, 4]", "3"]),
        ("group_norm", X, (0,), []),
        ("group_norm", X, (-1,), ["greater than 0", "-1"]),
        ("group_norm", X, (2.0,), ["num_groups", "2.0"]),
        ("group_norm", normal(1, 4), (4,), ["more than 1 value", "[1, 4]"]),
        ("group_norm", X, (2, normal(3)), ["weight", "(3,)", "[2, 4]"]),
        ("group_norm", X, (2, None, normal(4, 1)), ["bias", "(4, 1)", "[2, 4]"]),
        ("group_norm", X, (2, normal(4), normal(4, dtype=np.float16)), ["weight float32", "bias float16"]),
        ("group_norm", INTEGERS, (2,), ["int32", "floating-point"]),
        ("local_response_norm", X, (2,), ["3D or higher", "2"]),
        ("local_response_norm", normal(2, 4, 3), (0,), ["greater than zero", "0"]),
        ("local_response_norm", normal(2, 4, 3), (2.0,), ["2.0"]),
        ("local_response_norm", INTEGERS > 0, (2,), ["bool"]),
        ("normalize", INTEGERS, (), ["int32"]),
        ("normalize", normal(3), (), ["[-1, 0]", "1"]),
        ("normalize", X, (2, (1, -1)), ["multiple", "(1, -1)"]),
        ("normalize", X, (2, 1.0), ["1.0"]),
        ("normalize", normal(2, 0), (np.inf,), ["inf", "empty", "(2, 0)"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refuses(name, input, args, words):
    def call(nn, array):
        getattr(nn.functional, name)(array(input), *(array(a) if isinstance(a, np.ndarray) else a for a in args))

    assert_refused(call, *words)
