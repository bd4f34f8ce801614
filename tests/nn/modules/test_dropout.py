"""Dropout layers agree with torch's, as far as random numbers can."""

import jax.numpy as jnp
import pytest
from oracle import assert_layers_agree, assert_refused, assert_same_face, normal, torch

import fnn
import fnn.nn

# The function that each layer calls, and a shape that it takes
LAYERS = {
    "Dropout": ("dropout", (3, 4)),
    "Dropout1d": ("dropout1d", (2, 3, 4)),
    "Dropout2d": ("dropout2d", (2, 3, 4, 5)),
    "Dropout3d": ("dropout3d", (2, 3, 4, 5, 1)),
    "AlphaDropout": ("alpha_dropout", (3, 4)),
    "FeatureAlphaDropout": ("feature_alpha_dropout", (2, 3, 4)),
}


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (1.0, True)])
@pytest.mark.parametrize("name", LAYERS)
def test_agrees(name, p, training):
    ours, theirs = getattr(fnn.nn, name)(p), getattr(torch.nn, name)(p).train(training)
    assert_layers_agree(ours, theirs, normal(*LAYERS[name][1]))


@pytest.mark.parametrize("name", LAYERS)
def test_draws_the_mask_of_the_function_in_training_only(name):
    function, shape = LAYERS[name]
    layer, x = getattr(fnn.nn, name)(0.25, inplace=True), jnp.ones((9, 9, *shape[2:]))
    assert_same_face(layer, getattr(torch.nn, name)(0.25, inplace=True))
    with fnn.rng(0):
        out = layer(x)
    with fnn.rng(0):
        assert (out == getattr(fnn.functional, function)(x, 0.25, training=True)).all()
    assert (out != out.max()).any()
    params, state = fnn.split(layer)
    _, apply = fnn.pure(layer)
    assert (apply(params, x, state=state, training=True, rng=0)[0] == out).all()
    assert (layer.eval()(x) == x).all()


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_refuses_what_is_no_probability(p):
    assert_refused(lambda nn, array: nn.Dropout(p), "between 0 and 1", str(p))


def test_refuses_integers():
    assert_refused(lambda nn, array: nn.Dropout()(array([1])), "int32")


def test_refuses_other_numbers_of_axes():
    assert_refused(lambda nn, array: nn.Dropout1d()(array(normal(2, 3, 4, 5))), "2D or 3D", "4D")
