"""Instance normalization layers agree with torch's."""

import copy
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_close, assert_layers_agree, assert_refused, normal, tensor, torch

import fnn

SHAPES = {"InstanceNorm1d": (2, 3, 4), "InstanceNorm2d": (2, 3, 4, 5), "InstanceNorm3d": (2, 3, 2, 3, 2)}
OPTIONS = [
    {},
    {"eps": 0.01, "affine": True},
    {"affine": True, "bias": False},
    {"momentum": 0.3, "track_running_stats": True},
    {"momentum": None, "track_running_stats": True, "affine": True},
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
    ours, theirs = pair("InstanceNorm1d", 3, **options)
    assert_layers_agree(ours, theirs.train(training), normal(4, 3, 5) + 1, tolerance=1e-4)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_dimensions(name, batched):
    ours, theirs = pair(name, 3, affine=True, track_running_stats=True)
    assert_layers_agree(ours, theirs, normal(*SHAPES[name][not batched :]), tolerance=1e-4)


def test_statistics_after_many_batches_compiled_or_not():
    ours, theirs = pair("InstanceNorm1d", 3, track_running_stats=True)
    ours.load_state_dict(theirs.state_dict())
    compiled = copy.deepcopy(ours)
    step = fnn.jit(lambda x: compiled(x))
    for i in range(4):
        x = normal(4, 3, 5) * i + i
        for layer in (ours, step):
            layer(x)
        theirs(tensor(x))
    for name, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[name], value, what=name)
        assert_close(compiled.state_dict()[name], value, what=name)


def test_warns_of_channels_that_nobody_counts():
    for nn, array in ((torch.nn, tensor), (fnn.nn, jnp.asarray)):
        with pytest.warns(UserWarning, match="input's size at dim=1 does not match num_features"):
            assert nn.InstanceNorm1d(5)(array(normal(2, 3, 4))).shape == (2, 3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fnn.nn.InstanceNorm1d(3)(jnp.ones((2, 3, 4)))


def test_refuses_statistics_from_before_there_was_a_choice():
    theirs = torch.nn.InstanceNorm1d(3, track_running_stats=True).state_dict()
    del theirs["num_batches_tracked"], theirs._metadata
    with pytest.raises(RuntimeError, match=r"Unexpected running stats buffer.*'running_mean' and 'running_var'"):
        fnn.nn.InstanceNorm1d(3).load_state_dict(dict(theirs))
    assert_refused(lambda nn, array: nn.InstanceNorm1d(3).load_state_dict(dict(theirs)))
    assert_refused(lambda nn, array: nn.InstanceNorm1d(3).load_state_dict(dict(theirs), strict=False))
    fnn.nn.InstanceNorm1d(3, track_running_stats=True).load_state_dict(dict(theirs))


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("InstanceNorm1d", (2, 3, 4, 5), ["2D or 3D", "4D", "(2, 3, 4, 5)"]),
        ("InstanceNorm1d", (3,), ["2D or 3D", "1D"]),
        ("InstanceNorm2d", (2, 3), ["3D or 4D", "2D"]),
        ("InstanceNorm3d", (2, 3, 4), ["4D or 5D", "3D"]),
        ("InstanceNorm1d", (2, 4, 3), ["dim=1", "(3)", "4"]),
        ("InstanceNorm1d", (4, 3), ["dim=0", "(3)", "4"]),
        ("InstanceNorm2d", (2, 3, 1, 1), ["more than 1 spatial element", "[2, 3, 1, 1]"]),
    ],
)
def test_refuses(name, shape, words):
    assert_refused(lambda nn, array: getattr(nn, name)(3, affine=True)(array(normal(*shape))), *words)


def test_state_is_returned_by_the_functional_face():
    norm = fnn.nn.InstanceNorm1d(2, track_running_stats=True)
    _, apply = fnn.pure(norm)
    params, state = fnn.split(norm)
    x = jnp.asarray(normal(3, 2, 4))
    _, new = jax.jit(lambda x: apply(params, x, state=state, training=True))(x)
    norm(x)
    np.testing.assert_allclose(new["running_mean"], norm.running_mean.value, rtol=1e-6)
    assert state["running_mean"].tolist() == [0.0, 0.0]
