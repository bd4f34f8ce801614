"""Flatten agrees with torch's."""

import pytest
from oracle import assert_layers_agree, assert_refused, normal, torch

import fnn.nn


@pytest.mark.parametrize(
    ("shape", "args"),
    [
        ((2, 3, 4), ()),
        ((2, 3, 4), (0,)),
        ((2, 3, 4), (0, 1)),
        ((2, 3, 4), (-3, -2)),
        ((2, 3, 4), (1, 1)),
        ((0, 3, 4), ()),
        ((), (0,)),
        ((3,), (0,)),
    ],
    ids=str,
)
def test_agrees(shape, args):
    assert_layers_agree(fnn.nn.Flatten(*args), torch.nn.Flatten(*args), normal(*shape))


@pytest.mark.parametrize(
    ("shape", "args", "words"),
    [
        ((2, 3), (2,), ["[-2, 1]", "2"]),
        ((2, 3), (0, -3), ["[-2, 1]", "-3"]),
        ((3,), (), ["[-1, 0]", "1"]),
        ((2, 3, 4), (2, 1), ["start_dim cannot come after end_dim", "2 and 1"]),
    ],
    ids=str,
)
def test_refuses(shape, args, words):
    assert_refused(lambda nn, array: nn.Flatten(*args)(array(normal(*shape))), *words)
