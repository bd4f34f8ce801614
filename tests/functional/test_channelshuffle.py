"""Shuffles of channels agree with torch."""

import numpy as np
import pytest
from oracle import assert_agree, assert_refused, normal, torch

import fnn.functional as F


@pytest.mark.parametrize("name", ["channel_shuffle", "native_channel_shuffle"])
@pytest.mark.parametrize("shape", [(2, 6, 4), (2, 6, 3, 2), (1, 6, 2, 2, 2), (0, 6, 4), (2, 0, 4)], ids=str)
@pytest.mark.parametrize("groups", [1, 3])
def test_agrees(name, shape, groups):
    fixed = (0,) if name.startswith("native") or 0 in shape else ()  # torch has no gradient of it
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), normal(*shape), groups, fixed=fixed)


def test_keeps_the_dtype():
    x = np.arange(12).reshape(1, 6, 2)
    assert_agree(F.channel_shuffle, torch.nn.functional.channel_shuffle, x, 2)


@pytest.mark.parametrize(
    ("shape", "groups", "words"),
    [
        ((2, 4), 2, ["> 2 dims", "[2, 4]"]),
        ((1, 8, 4), 3, ["8 channels and 3 groups"]),
        ((1, 8, 4), 0, ["positive", "0"]),
        ((1, 8, 4), 2.0, ["groups", "2.0"]),
    ],
)
def test_refuses(shape, groups, words):
    assert_refused(lambda nn, array: nn.functional.channel_shuffle(array(normal(*shape)), groups), *words)
