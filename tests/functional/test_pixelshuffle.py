"""Shuffles of pixels agree with torch."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_refused, normal, torch

import fnn.functional as F


@pytest.mark.parametrize("name", ["pixel_shuffle", "pixel_unshuffle"])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("factor", [1, 2])
def test_agrees(name, lead, factor):
    assert_agree(
        getattr(F, name),
        getattr(torch.nn.functional, name),
        normal(*lead, 8, 4, 6),
        factor,
        fixed=() if 0 not in lead else (0,),
    )


@pytest.mark.parametrize("name", ["pixel_shuffle", "pixel_unshuffle"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.int32, bool])
def test_keeps_the_dtype(name, dtype):
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), normal(4, 2, 2).astype(dtype), 2)


@pytest.mark.parametrize(
    ("name", "shape", "factor", "words"),
    [
        ("pixel_shuffle", (4, 4), 2, ["at least 3", "2 dimension"]),
        ("pixel_shuffle", (8, 4, 4), 0, ["positive upscale_factor", "0"]),
        ("pixel_shuffle", (8, 4, 4), 3, ["8 is not divisible by 9"]),
        ("pixel_shuffle", (8, 4, 4), 2.0, ["upscale_factor", "2.0"]),
        ("pixel_shuffle", (8, 4, 4), True, ["upscale_factor", "True"]),
        ("pixel_shuffle", (8, 4, 4), 10**10, ["too large", "10000000000"]),
        ("pixel_unshuffle", (4,), 2, ["at least 3", "1 dimension"]),
        ("pixel_unshuffle", (8, 4, 4), -1, ["positive downscale_factor", "-1"]),
        ("pixel_unshuffle", (8, 5, 4), 2, ["height", "5 is not divisible by 2"]),
        ("pixel_unshuffle", (8, 4, 5), 2, ["width", "5 is not divisible by 2"]),
    ],
)
def test_refuses(name, shape, factor, words):
    assert_refused(lambda nn, array: getattr(nn.functional, name)(array(normal(*shape)), factor), *words)
