"""Dropout agrees with torch's, as far as random numbers can."""

import jax.numpy as jnp
import pytest
from oracle import assert_layers_agree, assert_refused, normal, torch

import fnn
import fnn.nn


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True), (1.0, True)])
def test_agrees(p, training):
    assert_layers_agree(fnn.nn.Dropout(p), torch.nn.Dropout(p).train(training), normal(3, 4))


def test_draws_the_mask_of_the_function_in_training_only():
    layer, x = fnn.nn.Dropout(0.25, inplace=True), jnp.ones(100)
    with fnn.rng(0):
        out = layer(x)
    with fnn.rng(0):
        assert (out == fnn.functional.dropout(x, 0.25)).all()
    assert (out == 0).any()
    assert (layer.eval()(x) == x).all()


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_refuses_what_is_no_probability(p):
    assert_refused(lambda nn, array: nn.Dropout(p), "between 0 and 1", str(p))
    assert_refused(lambda nn, array: nn.functional.dropout(array([1.0]), p), "between 0 and 1", str(p))


def test_refuses_integers():
    assert_refused(lambda nn, array: nn.Dropout()(array([1])), "int32")
