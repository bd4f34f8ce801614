"""instance_norm agrees with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_close, assert_refused, normal, tensor, torch

import fnn.functional as F
from fnn.nn import Buffer

OTHERS = {"running_mean": normal(3), "running_var": normal(3) ** 2, "weight": normal(3), "bias": normal(3)}
X = normal(2, 3, 4) + 1


def check(input, *others, tolerance=1e-4, **options):
    assert_agree(
        F.instance_norm, torch.nn.functional.instance_norm, input, *others, fixed=(1, 2), tolerance=tolerance, **options
    )


@pytest.mark.parametrize("use_input_stats", [True, False])
@pytest.mark.parametrize("shape", [(4, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 2)], ids=str)
def test_normalizes_each_channel_of_each_sample(shape, use_input_stats):
    check(normal(*shape) + 1, *OTHERS.values(), use_input_stats)


@pytest.mark.parametrize("affine", ["", "weight", "bias"])
def test_takes_no_statistics_weight_or_bias(affine):
    check(X, None, None, *(OTHERS[name] if name in affine else None for name in ("weight", "bias")), eps=0.1)


def test_takes_running_statistics_for_samples_without_space():
    check(normal(4, 3), *OTHERS.values(), False)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)], ids=str)
def test_takes_nothing_from_an_empty_input(shape):
    buffers = Buffer(OTHERS["running_mean"]), Buffer(OTHERS["running_var"])
    assert F.instance_norm(jnp.ones(shape), *buffers).shape == shape
    assert (buffers[0] == OTHERS["running_mean"]).all()
    assert (buffers[1] == OTHERS["running_var"]).all()


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0])
def test_updates_buffers_in_place_and_returns_the_statistics(momentum):
    theirs = tensor(OTHERS["running_mean"]), tensor(OTHERS["running_var"])
    torch.nn.functional.instance_norm(tensor(X), *theirs, momentum=momentum)
    arrays = jnp.asarray(OTHERS["running_mean"]), jnp.asarray(OTHERS["running_var"])
    buffers = Buffer(arrays[0]), Buffer(arrays[1])
    F.instance_norm(X, *buffers, momentum=momentum)
    _, *returned = F.instance_norm(X, *arrays, momentum=momentum, return_statistics=True)
    for buffer, array, other in zip(buffers, returned, theirs, strict=True):
        assert_close(buffer.value, other, 1e-5)
        assert_close(array, other, 1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize("own", [True, False])
def test_takes_16_bits_with_parameters_of_16_bits_or_float32(dtype, own):
    operands = [array.astype(dtype) if own else array for array in OTHERS.values()]
    check(normal(2, 3, 50, dtype=dtype), *operands, tolerance=4e-2)


def test_has_derivatives_of_derivatives_and_of_batches():
    def loss(x):
        return (F.instance_norm(x, eps=1e-12) ** 3).sum()

    x = jnp.asarray(X)
    gradients = jax.vmap(jax.grad(loss))(jnp.stack([x, 2 * x + 1]))
    np.testing.assert_allclose(gradients[1], gradients[0] / 2, rtol=1e-3, atol=1e-4)
    _, product = jax.jvp(jax.grad(loss), (x,), (x,))
    np.testing.assert_allclose(product, -gradients[0], rtol=1e-3, atol=1e-3)  # as the loss is of degree 0


@pytest.mark.parametrize(
    ("input", "changed", "options", "words"),
    [
        (normal(2, 3), {}, {}, ["more than 1 spatial element", "[2, 3]"]),
        (normal(2, 3, 1), {}, {}, ["more than 1 spatial element", "[2, 3, 1]"]),
        (X, {"running_mean": None, "running_var": None}, {"use_input_stats": False}, ["use_input_stats=False"]),
        (X, {"running_var": None}, {}, ["both be None"]),
        (X, {"running_mean": normal(2)}, {}, ["3 elements", "(2,)"]),
        (X, {"weight": normal(4)}, {}, ["weight", "3 elements", "(4,)"]),
        (X, {"bias": normal(3, dtype=np.float16)}, {}, ["bias float16"]),
        (np.ones((2, 3, 4), int), {}, {}, ["int32", "floating-point"]),
    ],
    ids=str,
)
def test_refuses(input, changed, options, words):
    operands = {**OTHERS, **changed}

    def call(nn, array):
        arrays = {name: None if value is None else array(value) for name, value in operands.items()}
        nn.functional.instance_norm(array(input), **arrays, **options)

    assert_refused(call, *words)
