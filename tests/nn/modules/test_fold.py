"""Fold and Unfold agree with torch's."""

import pytest
from oracle import assert_layers_agree, normal, torch

import fnn.nn


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda nn: nn.Unfold(3, 2, 1, 2), (2, 3, 6, 7)),
        (lambda nn: nn.Unfold((2, 3), padding=(1, 0)), (3, 6, 7)),
        (lambda nn: nn.Fold((4, 5), (2, 2)), (2, 12, 12)),
        (lambda nn: nn.Fold(6, 3, 1, 1, 2), (18, 9)),
    ],
)
def test_agrees(layer, shape):
    assert_layers_agree(layer(fnn.nn), layer(torch.nn), normal(*shape))
