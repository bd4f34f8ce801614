"""Limits to gradients, with torch's as the oracle."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_close, assert_refused, normal, tensor, torch

import fnn
import fnn.nn as nn
from fnn.nn import utils

ARRAYS = {
    "float32": [normal(2), normal(2)],
    "mixed": [normal(2, dtype=jnp.bfloat16), normal(2), normal(2, dtype=jnp.float16)],
    "16 bits": [normal(2, dtype=jnp.bfloat16), normal(2, dtype=jnp.float16)],
    "complex": [normal(2), normal(2) + 1j * normal(2)],
    "with zeros": [np.zeros(2, np.float32), np.array([0.0, -3.0], np.float32)],
    "with NaN": [np.array([np.nan, 1], np.float32), normal(2)],
    "with infinity": [np.array([-np.inf, 1], np.float32), normal(2)],
    "none": [],
}


def parameters(lib, arrays):
    """Parameters with gradients, and one without."""
    result = [lib.Parameter(tensor(np.zeros_like(a)) if lib is torch.nn else jnp.zeros_like(a)) for a in arrays]
    for parameter, array in zip(result, arrays, strict=True):
        parameter.grad = tensor(array) if lib is torch.nn else jnp.asarray(array)
    return [*result, lib.Parameter(tensor(np.ones(2, np.float32)) if lib is torch.nn else jnp.ones(2))]


def tolerance(arrays):
    return max([1e-5, *(2e-2 for array in arrays if array.dtype.itemsize == 2)])


@pytest.mark.parametrize("arrays", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("order", [2.0, float("inf"), -float("inf"), "inf", 0.5, 1, 3, 0, -1.0])
def test_norms(arrays, order):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of complex numbers
        expected = torch.nn.utils.get_total_norm([tensor(array) for array in arrays], order)
    assert_close(utils.get_total_norm([jnp.asarray(array) for array in arrays], order), expected, tolerance(arrays))


CLIPS = {
    "by a norm that is exceeded": lambda lib, p: lib.utils.clip_grad_norm_(p, 0.7),
    "by a norm that is not": lambda lib, p: lib.utils.clip_grad_norm_(p, 1e4),
    "by the largest": lambda lib, p: lib.utils.clip_grad_norm_(p, 0.7, "inf"),
    "by a given norm": lambda lib, p: lib.utils.clip_grads_with_norm_(
        p, 0.7, torch.tensor(3.0) if lib is torch.nn else jnp.array(3.0)
    ),
    "by value": lambda lib, p: lib.utils.clip_grad_value_(p, 0.5),
    "by a negative value": lambda lib, p: lib.utils.clip_grad_value_(p, -0.5, foreach=False),
}


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize("arrays", ARRAYS.values(), ids=ARRAYS)
def test_clipping(clip, arrays):
    ours, theirs = parameters(nn, arrays), parameters(torch.nn, arrays)
    if any(array.dtype.kind == "c" for array in arrays) and clip in (CLIPS["by value"], CLIPS["by a negative value"]):
        assert_refused(lambda lib, _: clip(lib, parameters(lib, arrays)))
        with pytest.raises(NotImplementedError):
            clip(nn, [jnp.asarray(array) for array in arrays])
        return
    if not arrays and clip in (CLIPS["by value"], CLIPS["by a negative value"]):
        assert clip(nn, ours) is None  # torch refuses, without a reason
        return
    result, expected = clip(nn, iter(ours)), clip(torch.nn, iter(theirs))
    assert (result is None) == (expected is None)
    if result is not None:
        assert_close(result, expected, tolerance(arrays))
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None:
            assert_close(mine.grad, other.grad, tolerance(arrays))
    if arrays:
        given = {"layer": {str(i): jnp.asarray(array) for i, array in enumerate(arrays)}}
        out = clip(nn, given)
        clipped, norm = out if expected is not None else (out, None)
        if norm is not None:
            assert_close(norm, expected, tolerance(arrays))
        for array, other in zip(clipped["layer"].values(), theirs, strict=False):
            assert_close(array, other.grad, tolerance(arrays))


def test_one_parameter_one_array_and_shared_ones():
    one = parameters(nn, [normal(3)])[0]
    assert utils.clip_grad_norm_(one, 1e-3) > 1e-3
    np.testing.assert_allclose(np.linalg.norm(one.grad), 1e-3, rtol=1e-3)
    clipped, norm = utils.clip_grad_norm_(jnp.full(4, 3.0), 3.0)
    assert norm == 6.0
    np.testing.assert_allclose(clipped, 1.5, rtol=1e-5)
    clipped, norm = utils.clip_grad_norm_((jnp.ones(4), {"a": jnp.zeros(2), "b": None}), 1.0)
    assert isinstance(clipped, tuple)
    assert clipped[1]["b"] is None
    assert utils.clip_grad_norm_({}, 1.0) == ({}, 0.0)
    assert utils.clip_grad_value_([jnp.array([3.0])], 1.0)[0] == 1.0
    with pytest.raises(TypeError, match="either Parameters or gradients"):
        utils.clip_grad_norm_([one, jnp.ones(3)], 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_not_finite_raises_if_asked_to(bad):
    array = np.array([bad, 1], np.float32)
    assert_refused(lambda lib, _: lib.utils.clip_grad_norm_(parameters(lib, [array]), 1.0, error_if_nonfinite=True), "finite")
    assert_refused(lambda lib, t: lib.utils.get_total_norm([t(array)], error_if_nonfinite=True), "finite")
    traced = jax.jit(lambda g: utils.clip_grad_norm_(g, 1.0, error_if_nonfinite=True))
    clipped, norm = traced({"a": array})
    assert np.isnan(norm)
    assert np.isnan(clipped["a"]).all()
    assert traced({"a": np.ones(2, np.float32)})[1] == np.float32(2**0.5)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda lib, t: lib.utils.get_total_norm([t(np.arange(3))]),
        lambda lib, t: lib.utils.get_total_norm([t(np.zeros(0, np.float32))], float("inf")),
        lambda lib, t: lib.utils.get_total_norm([t(np.zeros(0, np.float32))], -1),
        lambda lib, t: lib.utils.clip_grad_norm_(lib.Linear(2, 2), 1.0),
        lambda lib, t: lib.utils.clip_grad_norm_(lib.Linear(2, 2).parameters(), "x"),
    ],
)
def test_mistakes_are_those_of_torch(mistake):
    assert_refused(mistake)


def test_warnings_are_torchs():
    for lib in (nn, torch.nn):
        with pytest.warns(FutureWarning, match="deprecated"):
            assert lib.utils.clip_grad_norm(parameters(lib, [normal(2)]), 1.0) > 0
        with pytest.warns(UserWarning, match="empty generator"):
            assert lib.utils.clip_grad_norm_((p for p in ()), 1.0) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        utils.clip_grad_norm_(nn.Linear(2, 2).parameters(), 1.0)


@pytest.mark.parametrize("wrap", [lambda f: f, fnn.jit], ids=["eager", "fnn.jit"])
def test_in_a_training_step(wrap):
    net = nn.Linear(3, 2)
    x = normal(4, 3)

    def step():
        net.zero_grad()
        fnn.backward(lambda net: (net(x) ** 2).sum(), net)
        _, before = utils.clip_grad_norm_(fnn.grad(lambda net: (net(x) ** 2).sum())(net), 0.1)
        utils.clip_grad_value_(net.parameters(), 1e3)
        return before, utils.clip_grad_norm_(net.parameters(), 0.1)

    by_dict, by_parameters = wrap(step)()
    np.testing.assert_allclose(by_dict, by_parameters, rtol=1e-6)
    np.testing.assert_allclose(utils.get_total_norm([p.grad for p in net.parameters()]), 0.1, rtol=1e-4)


@settings(max_examples=20)
@given(st.lists(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=3), max_size=2), st.floats(0.1, 20))
def test_any_gradients(values, limit):
    arrays = [np.array(value, np.float32) for value in values]
    ours, theirs = parameters(nn, arrays), parameters(torch.nn, arrays)
    assert_close(utils.clip_grad_norm_(ours, limit), torch.nn.utils.clip_grad_norm_(theirs, limit))
    for mine, other in zip(ours[:-1], theirs, strict=False):
        assert_close(mine.grad, other.grad)
