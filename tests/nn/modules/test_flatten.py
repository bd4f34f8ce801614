"""Flatten and Unflatten agree with torch's."""

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


@pytest.mark.parametrize(
    ("shape", "args"),
    [
        ((3, 10, 2), (1, (2, 5))),
        ((3, 10, 2), (-2, [5, -1])),
        ((3, 10), (1, (10,))),
        ((3, 10), (1, (1, -1, 5))),
        ((3, 0, 2), (1, (0, 5))),
        ((0, 6), (1, torch.Size([2, 3]))),
    ],
    ids=str,
)
def test_unflatten_agrees(shape, args):
    assert_layers_agree(fnn.nn.Unflatten(*args), torch.nn.Unflatten(*args), normal(*shape))


@pytest.mark.parametrize(
    ("shape", "args", "words"),
    [
        ((3, 10), (1, (3, 3)), ["[3, 3]", "dim 1 (10)"]),
        ((3, 10), (1, (-1, 3)), ["[-1, 3]", "dim 1 (10)"]),
        ((3, 10), (1, (0, -1)), ["[0, -1]", "dim 1 (10)"]),
        ((3, 0), (1, (0, -1)), ["[0, -1]", "dim 1 (0)"]),
        ((3, 10), (1, (-1, -1)), ["[-1, -1]", "[3, 10]"]),
        ((3, 10), (1, (-2, -5)), ["[-2, -5]", "[3, 10]"]),
        ((3, 10), (1, ()), ["non-empty"]),
        ((3, 10), (2, (2, 5)), ["[-2, 1]", "2"]),
        ((3, 10), ("features", (2, 5)), ["features"]),
        ((3, 10), (1, (2, 5.0)), ["tuple of ints", "float", "pos 1"]),
        ((3, 10), (1, 5), ["tuple of ints", "int"]),
        ((3, 10), ("features", (("a", 2), ("b", 5))), ["tuple of ints", "tuple at pos 0"]),
    ],
    ids=str,
)
def test_unflatten_refuses(shape, args, words):
    assert_refused(lambda nn, array: nn.Unflatten(*args)(array(normal(*shape))), *words)
