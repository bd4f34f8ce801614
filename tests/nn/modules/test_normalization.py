"""Layer normalization agrees with torch's."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_layers_agree, assert_refused, assert_same_face, normal, torch

import fnn.nn


@pytest.mark.parametrize(
    ("args", "options"),
    [((5,), {}), (([4, 5],), {"eps": 0.01}), ((5,), {"bias": False}), (((4, 5),), {"elementwise_affine": False})],
    ids=str,
)
def test_agrees(args, options):
    assert_layers_agree(
        fnn.nn.LayerNorm(*args, **options), torch.nn.LayerNorm(*args, **options), normal(3, 4, 5), tolerance=1e-4
    )


@pytest.mark.parametrize("whole", [True, False])
def test_bfloat16(whole):
    ours, theirs = (nn.LayerNorm(8).bfloat16() if whole else nn.LayerNorm(8) for nn in (fnn.nn, torch.nn))
    assert_layers_agree(ours, theirs, normal(6, 8, dtype=jnp.bfloat16), tolerance=4e-2)


def test_takes_a_size_from_numpy():
    assert_same_face(fnn.nn.LayerNorm(np.int64(5)), torch.nn.LayerNorm(np.int64(5)))


def test_refuses():
    assert_refused(lambda nn, array: nn.LayerNorm((4, 5))(array(normal(3, 5, 4))), "[*, 4, 5]", "[3, 5, 4]")
