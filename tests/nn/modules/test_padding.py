"""Padding layers agree with torch's."""

import pytest
from oracle import assert_layers_agree, assert_refused, assert_same_face, normal, torch

import fnn.nn

FAMILIES = ["CircularPad", "ConstantPad", "ReflectionPad", "ReplicationPad", "ZeroPad"]
SHAPES = {1: (2, 3, 5), 2: (2, 3, 4, 5), 3: (1, 2, 3, 4, 5)}
PADS = {1: (2, 1), 2: (2, 1, 0, 3), 3: (2, 1, 0, 3, 1, 1)}


def pair(family, n, padding):
    arguments = (padding, 2.5) if family == "ConstantPad" else (padding,)
    return (getattr(module, f"{family}{n}d")(*arguments) for module in (fnn.nn, torch.nn))


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees(family, n, batch):
    ours, theirs = pair(family, n, PADS[n])
    assert_layers_agree(ours, theirs, normal(*SHAPES[n][0 if batch else 1 :]))


@pytest.mark.parametrize("padding", [1, -1, [1, 2], (-1, 2)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_paddings(family, padding):
    ours, theirs = pair(family, 1, padding)
    assert_layers_agree(ours, theirs, normal(2, 3, 5))


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_number_for_all_sides(family, n):
    ours, theirs = pair(family, n, 2)
    assert_same_face(ours, theirs)


def test_zero_padding_is_constant_padding():
    for n in (1, 2, 3):
        assert issubclass(getattr(fnn.nn, f"ZeroPad{n}d"), getattr(fnn.nn, f"ConstantPad{n}d"))


@pytest.mark.parametrize(
    ("name", "padding", "shape", "words"),
    [
        ("CircularPad1d", 1, (2, 3, 4, 5), ["2D or 3D", "4D"]),
        ("CircularPad2d", 1, (3, 4), ["3D or 4D", "2D"]),
        ("ReflectionPad2d", 1, (4, 5), ["(4, 5)"]),
        ("ReflectionPad1d", 5, (3, 4), ["(5, 5)", "(3, 4)"]),
        ("ReplicationPad3d", (1, 1), (2, 3, 4, 5, 6), ["(1, 1)"]),
        ("ZeroPad2d", 1.5, (3, 4), ["1.5"]),
    ],
)
def test_refuses(name, padding, shape, words):
    assert_refused(lambda nn, array: getattr(nn, name)(padding)(array(normal(*shape))), *words)
