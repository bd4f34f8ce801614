"""Normalization layers agree with torch's."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_layers_agree, assert_refused, assert_same_face, normal, torch

import fnn.nn


@pytest.mark.parametrize(
    ("name", "args", "options"),
    [
        ("LayerNorm", (5,), {}),
        ("LayerNorm", ([4, 5],), {"eps": 0.01}),
        ("LayerNorm", (5,), {"bias": False}),
        ("LayerNorm", ((4, 5),), {"elementwise_affine": False}),
        ("RMSNorm", (5,), {}),
        ("RMSNorm", ([4, 5],), {"eps": 0.01}),
        ("RMSNorm", ((4, 5),), {"elementwise_affine": False}),
        ("GroupNorm", (2, 4), {}),
        ("GroupNorm", (1, 4, 0.01), {"bias": False}),
        ("GroupNorm", (4, 4), {"affine": False}),
        ("LocalResponseNorm", (3, 2.0), {}),
        ("LocalResponseNorm", (2,), {"alpha": 0.5, "beta": 1.5, "k": 2}),
    ],
    ids=str,
)
def test_agrees(name, args, options):
    ours, theirs = (getattr(nn, name)(*args, **options) for nn in (fnn.nn, torch.nn))
    assert_layers_agree(ours, theirs, normal(3, 4, 5), tolerance=1e-4)


@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_cross_map_lrn2d(size, channels):
    ours, theirs = (nn.CrossMapLRN2d(size, alpha=2.0, k=2) for nn in (fnn.nn, torch.nn))
    assert_layers_agree(ours, theirs, normal(2, channels, 2, 3), tolerance=1e-4)


@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm"])
@pytest.mark.parametrize("whole", [True, False])
def test_bfloat16(name, whole):
    ours, theirs = (getattr(nn, name)(8) for nn in (fnn.nn, torch.nn))
    if whole:
        ours, theirs = ours.bfloat16(), theirs.bfloat16()
    assert_layers_agree(ours, theirs, normal(6, 8, dtype=jnp.bfloat16), tolerance=4e-2)


def test_takes_a_size_from_numpy():
    assert_same_face(fnn.nn.LayerNorm(np.int64(5)), torch.nn.LayerNorm(np.int64(5)))


@pytest.mark.parametrize(
    ("name", "args", "shape", "words"),
    [
        ("LayerNorm", ((4, 5),), (3, 5, 4), ["[*, 4, 5]", "[3, 5, 4]"]),
        ("RMSNorm", ((4, 5),), (3, 5, 4), ["[*, 4, 5]", "[3, 5, 4]"]),
        ("GroupNorm", (3, 4), (3, 4), ["(4)", "divisible", "(3)"]),
        ("GroupNorm", (0, 4), (3, 4), []),
        ("GroupNorm", (2, 4), (3, 6), ["(4,)", "[3, 6]"]),
        ("LocalResponseNorm", (2,), (3, 6), ["3D", "2"]),
        ("CrossMapLRN2d", (2,), (3, 6, 2), ["4D", "3D"]),
    ],
)
def test_refuses(name, args, shape, words):
    assert_refused(lambda nn, array: getattr(nn, name)(*args)(array(normal(*shape))), *words)
