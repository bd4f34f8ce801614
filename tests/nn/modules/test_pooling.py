"""Pooling layers agree with torch's."""

import pytest
from oracle import assert_layers_agree, assert_refused, assert_same_face, normal, torch

import fnn.nn

SHAPES = {"MaxPool1d": (2, 3, 9), "MaxPool2d": (2, 3, 9, 8), "MaxPool3d": (2, 3, 6, 7, 5)}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 1, "padding": 1, "dilation": 2, "ceil_mode": True}, {"stride": 3, "return_indices": True}],
    ids=str,
)
def test_max_pool(name, options):
    layers = [getattr(nn, name)(3, **options) for nn in (fnn.nn, torch.nn)]
    assert_layers_agree(*layers, normal(*SHAPES[name]))


@pytest.mark.parametrize("size", [1, (2, 5), (None, 3)], ids=str)
def test_adaptive_avg_pool2d(size):
    assert_layers_agree(fnn.nn.AdaptiveAvgPool2d(size), torch.nn.AdaptiveAvgPool2d(size), normal(2, 3, 8, 6))


def test_attributes():
    args = (2, 3), (1, 2), (1, 0), (1, 2), True, True
    assert_same_face(fnn.nn.MaxPool2d(*args), torch.nn.MaxPool2d(*args))


def test_refuses():
    assert_refused(lambda nn, array: nn.MaxPool2d(2)(array(normal(4, 4))), "3D or 4D", "[4, 4]")
    assert_refused(lambda nn, array: nn.AdaptiveAvgPool2d(2)(array(normal(4, 4))), "3D or 4D", "[4, 4]")
