"""batch_norm agrees with torch."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_close, assert_refused, normal, tensor, torch

import fnn.functional as F
from fnn.nn import Buffer


def check(input, *others, **options):
    assert_agree(F.batch_norm, torch.nn.functional.batch_norm, input, *others, fixed=(1, 2), **options)


OTHERS = {"running_mean": normal(3), "running_var": normal(3) ** 2, "weight": normal(3), "bias": normal(3)}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 2)], ids=str)
def test_normalizes_each_channel(shape, training):
    check(normal(*shape) + 1, *OTHERS.values(), training=training, tolerance=1e-4)


@pytest.mark.parametrize("absent", ["weight", "bias", "weight bias"])
def test_takes_no_weight_or_bias(absent):
    operands = [None if name in absent.split() else array for name, array in OTHERS.items()]
    check(normal(4, 3, 5), *operands, training=True, tolerance=1e-4)


def test_takes_no_running_statistics_in_training():
    check(normal(4, 3, 5), None, None, training=True, eps=0.1, tolerance=1e-4)


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0])
def test_updates_buffers_in_place_and_returns_the_statistics(momentum):
    x = normal(4, 3, 5)
    theirs = tensor(OTHERS["running_mean"]), tensor(OTHERS["running_var"])
    torch.nn.functional.batch_norm(tensor(x), *theirs, training=True, momentum=momentum)
    arrays = jnp.asarray(OTHERS["running_mean"]), jnp.asarray(OTHERS["running_var"])
    buffers = Buffer(arrays[0]), Buffer(arrays[1])
    F.batch_norm(x, *buffers, training=True, momentum=momentum)
    _, *returned = F.batch_norm(x, *arrays, training=True, momentum=momentum, return_statistics=True)
    for buffer, array, other in zip(buffers, returned, theirs, strict=True):
        assert_close(buffer.value, other, 1e-5)
        assert_close(array, other, 1e-5)


def test_evaluation_changes_no_statistics():
    buffers = Buffer(OTHERS["running_mean"]), Buffer(OTHERS["running_var"])
    _, mean, var = F.batch_norm(normal(4, 3), *buffers, return_statistics=True)
    assert (mean == OTHERS["running_mean"]).all()
    assert (var == OTHERS["running_var"]).all()
    assert (buffers[0] == OTHERS["running_mean"]).all()


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 2), (2, 3, 0)], ids=str)
def test_takes_nothing_from_an_empty_batch(shape):
    check(normal(*shape), *OTHERS.values(), training=True)
    buffers = Buffer(OTHERS["running_mean"]), Buffer(OTHERS["running_var"])
    F.batch_norm(jnp.ones(shape), *buffers, training=True)
    assert (buffers[0] == OTHERS["running_mean"]).all()
    assert (buffers[1] == OTHERS["running_var"]).all()


def test_takes_what_has_no_axis_of_channels_where_it_is_empty():
    check(normal(0), normal(0), normal(0), training=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize("own", [True, False])
def test_takes_16_bits_with_parameters_of_16_bits_or_float32(training, dtype, own):
    operands = [array.astype(dtype) if own else array for array in OTHERS.values()]
    check(normal(8, 3, 5, dtype=dtype), *operands, training=training, tolerance=4e-2)


def test_averages_16_bits_in_float32():
    ones = jnp.ones((4096, 1), jnp.bfloat16)
    _, mean, _ = F.batch_norm(ones, jnp.zeros(1), jnp.ones(1), training=True, momentum=1.0, return_statistics=True)
    assert mean == 1


X = normal(2, 3, 4)


@pytest.mark.parametrize(
    ("input", "changed", "options", "words"),
    [
        (X, {"running_mean": normal(2)}, {}, ["3 elements", "(2,)", "(2, 3, 4)"]),
        (X, {"weight": normal(4)}, {"training": True}, ["weight", "3 elements", "(4,)"]),
        (X, {"running_mean": None, "running_var": None}, {}, ["running_mean and running_var", "training=False"]),
        (X, {"running_var": None}, {"training": True}, ["running_mean and running_var", "both be None"]),
        (normal(1, 3, 1), {}, {"training": True}, ["more than 1 value per channel", "[1, 3, 1]"]),
        (X, {}, {"eps": -1.0}, ["non-negative", "-1.0"]),
        (X, {}, {"eps": 0.0, "training": True}, ["positive during training", "0.0"]),
        (np.ones((2, 3), int), {}, {}, ["int32", "floating-point"]),
        (X, {"weight": normal(3, dtype=np.float16)}, {"training": True}, ["float32", "weight float16"]),
        (X, {"running_mean": normal(3, dtype=np.float16)}, {"training": True}, ["float32", "running_mean float16"]),
        (X.astype(np.float16), {"weight": normal(3, dtype=np.float16)}, {}, ["float16", "running_mean float32"]),
    ],
    ids=str,
)
def test_refuses(input, changed, options, words):
    operands = {**OTHERS, **changed}

    def call(nn, array):
        arrays = {name: None if value is None else array(value) for name, value in operands.items()}
        nn.functional.batch_norm(array(input), **arrays, **options)

    assert_refused(call, *words)
