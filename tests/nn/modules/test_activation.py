"""Activation layers agree with torch's."""

import pytest
from oracle import assert_layers_agree, assert_refused, normal, torch

import fnn.nn


@pytest.mark.parametrize(
    "layer",
    [lambda nn: nn.ReLU(), lambda nn: nn.GELU(), lambda nn: nn.GELU("tanh")],
)
def test_agrees(layer):
    assert_layers_agree(layer(fnn.nn), layer(torch.nn), normal(3, 4))


def test_relu_in_place_returns_its_result():
    assert repr(fnn.nn.ReLU(True)) == repr(torch.nn.ReLU(True))
    assert fnn.nn.ReLU(inplace=True)([-1.0, 2.0]).tolist() == [0, 2]


def test_refuses_another_approximation():
    assert_refused(lambda nn, array: nn.GELU("erf")(array(normal(2))), "none or tanh", "erf")
