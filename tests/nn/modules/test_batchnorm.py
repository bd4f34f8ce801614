"""Batch normalization layers agree with torch's."""

import copy

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_close, assert_layers_agree, assert_refused, normal, tensor, torch

import fnn.nn

SHAPES = {"BatchNorm1d": (4, 3), "BatchNorm2d": (2, 3, 4, 5), "BatchNorm3d": (2, 3, 2, 3, 2)}
OPTIONS = [
    {},
    {"momentum": 0.3, "eps": 0.01},
    {"momentum": None},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
]


def pair(name, *args, **options):
    """Layers of fnn and of torch with other parameters and statistics than the initial ones."""
    theirs = getattr(torch.nn, name)(*args, **options)
    for value in theirs.state_dict().values():
        value.copy_(torch.rand(value.shape) * 3 + 1)
    return getattr(fnn.nn, name)(*args, **options), theirs


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options, training):
    ours, theirs = pair("BatchNorm1d", 3, **options)
    assert_layers_agree(ours, theirs.train(training), normal(4, 3, 5) + 1, tolerance=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_dimensions(name, training):
    ours, theirs = pair(name, 3)
    assert_layers_agree(ours, theirs.train(training), normal(*SHAPES[name]), tolerance=1e-4)


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_statistics_after_many_batches(options):
    ours, theirs = pair("BatchNorm1d", 3, **options)
    ours.load_state_dict(theirs.state_dict())
    for i in range(5):
        x = normal(4, 3) * i + i
        ours(x)
        theirs(tensor(x))
    for name, value in ours.state_dict().items():
        assert_close(value, theirs.state_dict()[name], what=name)
    theirs.reset_running_stats()
    ours.reset_running_stats()
    for name, value in ours.state_dict().items():
        assert_close(value, theirs.state_dict()[name], what=name)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_bfloat16(whole, training):
    ours, theirs = (layer.bfloat16() if whole else layer for layer in pair("BatchNorm1d", 3))
    assert_layers_agree(ours, theirs.train(training), normal(8, 3, 5, dtype=jnp.bfloat16), tolerance=4e-2)


def test_counts_batches_in_64_bits():
    norm = fnn.nn.BatchNorm1d(3)
    norm(jnp.ones((2, 3)))
    counter = norm.state_dict()["num_batches_tracked"]
    assert (counter, counter.dtype, counter.shape) == (1, np.int64, ())


def test_loads_checkpoints_that_did_not_count_batches():
    ours, theirs = pair("BatchNorm1d", 3)
    ours.load_state_dict(theirs.state_dict())
    old = theirs.state_dict()
    del old["num_batches_tracked"], old._metadata
    expected = copy.deepcopy(theirs)
    expected.load_state_dict(copy.copy(old))
    ours.load_state_dict(old)
    assert ours.num_batches_tracked.item() == expected.num_batches_tracked.item()


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("BatchNorm1d", (2, 3, 4, 5), ["2D or 3D", "4D", "(2, 3, 4, 5)"]),
        ("BatchNorm1d", (3,), ["2D or 3D", "1D"]),
        ("BatchNorm2d", (2, 3, 4), ["4D", "3D"]),
        ("BatchNorm3d", (2, 3, 4, 5), ["5D", "4D"]),
        ("BatchNorm1d", (2, 4), ["4 elements, not 3", "(2, 4)"]),
        ("BatchNorm2d", (1, 3, 1, 1), ["more than 1 value per channel", "[1, 3, 1, 1]"]),
    ],
)
def test_refuses(name, shape, words):
    assert_refused(lambda nn, array: getattr(nn, name)(3)(array(normal(*shape))), *words)


def test_refuses_one_value_a_channel_without_counting_it():
    norm = fnn.nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="more than 1 value"):
        norm(jnp.ones((1, 3)))
    assert norm.num_batches_tracked.item() == 0
