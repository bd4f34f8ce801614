"""Layers that shuffle pixels agree with torch's."""

import pytest
from oracle import assert_layers_agree, normal, torch

import fnn.nn


@pytest.mark.parametrize("name", ["PixelShuffle", "PixelUnshuffle"])
def test_agrees(name):
    assert_layers_agree(getattr(fnn.nn, name)(2), getattr(torch.nn, name)(2), normal(2, 4, 6, 4))
