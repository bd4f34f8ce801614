"""Activations agree with torch."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_refused, normal, torch

import fnn.functional as F

KINKS = np.array([-np.inf, -7, -1, -0.0, 0, 1e-3, 2, 7, np.inf], np.float32)
FLOATS = [np.float32, jnp.bfloat16, np.float16]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("inplace", [False, True])
def test_relu(dtype, inplace):
    x = KINKS.astype(dtype)
    assert_agree(lambda x: F.relu(x, inplace), lambda x: torch.nn.functional.relu(x.clone(), inplace), x)


def test_relu_takes_integers_and_passes_nan_on():
    assert_agree(F.relu, torch.nn.functional.relu, np.array([-1, 0, 2]))
    assert jnp.isnan(F.relu(jnp.nan))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(dtype, approximate):
    x = np.concatenate([KINKS[1:-1], np.linspace(-5, 5, 100)]).astype(dtype)
    assert_agree(F.gelu, torch.nn.functional.gelu, x, approximate=approximate)


def test_gelu_rounds_16_bits_once():
    x = np.linspace(-5, 5, 1000).astype(jnp.bfloat16)
    assert (F.gelu(jnp.asarray(x)) == F.gelu(jnp.asarray(x, jnp.float32)).astype(jnp.bfloat16)).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_log_softmax(dtype, dim):
    assert_agree(F.log_softmax, torch.nn.functional.log_softmax, normal(3, 4, 5, dtype=dtype) * 5, dim=dim)


def test_log_softmax_of_masked_and_large_logits():
    x = np.array([[0, -np.inf, 3], [1e4, -1e4, 0]], np.float32)
    assert_agree(F.log_softmax, torch.nn.functional.log_softmax, x, dim=1)


@pytest.mark.parametrize(("given", "asked"), [(np.float32, "bfloat16"), (np.float16, "float32"), (int, "float32")])
def test_log_softmax_converts_first(given, asked):
    assert_agree(
        lambda x: F.log_softmax(x, 1, dtype=getattr(jnp, asked)),
        lambda x: torch.nn.functional.log_softmax(x, 1, dtype=getattr(torch, asked)),
        (normal(3, 4) * 5).astype(given),
        tolerance=1e-2,
    )


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (2, 3, 4, 5)], ids=str)
def test_log_softmax_warns_of_the_axis_that_it_chooses(shape):
    with pytest.warns(UserWarning, match="Implicit dimension choice"):
        assert_agree(F.log_softmax, torch.nn.functional.log_softmax, normal(*shape))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda F, array: F.relu(array([True])), ["bool"]),
        (lambda F, array: F.relu(array([1j])), ["complex"]),
        (lambda F, array: F.gelu(array([1])), ["gelu", "int32", "floating-point"]),
        (lambda F, array: F.gelu(array([1j])), ["complex64", "floating-point"]),
        (lambda F, array: F.gelu(array([1.0]), approximate="erf"), ["none or tanh", "'erf'"]),
        (lambda F, array: F.log_softmax(array([1]), 0), ["int32", "floating-point"]),
        (lambda F, array: F.log_softmax(array([[1.0]]), 2), ["[-2, 1]", "2"]),
        (lambda F, array: F.log_softmax(array(1.0), 1), ["[-1, 0]", "1"]),
        (lambda F, array: F.log_softmax(array([1.0]), "last"), ["dim", "'last'"]),
        (lambda F, array: F.relu(None), ["input", "NoneType"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_refuses(call, words):
    assert_refused(lambda nn, array: call(nn.functional, array), *words)
