"""The gradients of convolutions as functions, with torch's as the oracle."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_refused, normal, torch

import fnn.nn as nn

CASES = [
    (1, (2, 4, 6), (6, 2, 3), {"stride": 2, "padding": 1, "groups": 2}),
    (2, (1, 2, 5, 4), (3, 2, 2, 3), {"dilation": (2, 1), "padding": (0, 1)}),
    (3, (1, 2, 3, 3, 4), (2, 2, 2, 2, 2), {"stride": (1, 2, 1)}),
]


@pytest.mark.parametrize(("n", "x", "w", "options"), CASES)
def test_gradients_as_in_torch(n, x, w, options):
    conv = getattr(torch.nn.functional, f"conv{n}d")
    out = normal(*conv(torch.zeros(x), torch.zeros(w), **options).shape)
    ours, theirs = (getattr(lib.grad, f"conv{n}d_input") for lib in (nn, torch.nn))
    assert_agree(lambda *a: ours(x, *a, **options), lambda *a: theirs(x, *a, **options), normal(*w), out)
    ours, theirs = (getattr(lib.grad, f"conv{n}d_weight") for lib in (nn, torch.nn))
    assert_agree(lambda x, g: ours(x, w, g, **options), lambda x, g: theirs(x, w, g, **options), normal(*x), out)


def test_also_in_functional():
    np.testing.assert_array_equal(
        nn.functional.grad.conv1d_weight(jnp.ones((1, 1, 2)), (1, 1, 1), jnp.ones((1, 1, 2))), [[[2.0]]]
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda lib, t: lib.grad.conv1d_input((1, 1, 4), t(normal(1, 1, 2)), t(normal(1, 1, 4))),
        lambda lib, t: lib.grad.conv1d_weight(t(normal(1, 1, 4)), (1, 1, 2), t(normal(1, 2, 3))),
        lambda lib, t: lib.grad.conv1d_weight(t(normal(1, 1, 4)), (1, 1, 2), t(normal(1, 1, 3, dtype=np.float16))),
    ],
)
def test_mistakes_are_torchs_errors(call):
    assert_refused(call)
