"""Dropout."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.functional.checks import array
from fnn.random import next_key

__all__ = ["dropout"]


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> jax.Array:
    """Sets elements to zero with probability p, and divides the others by 1 − p.

    Args:
        input: any shape.
        p: the probability.
        training: where False, the input is returned.
        inplace: accepted; arrays are immutable, so the result is always a new one.

    Raises:
        ValueError: where p is not between 0 and 1.
        RuntimeError: in training, for integers.
        StateError: under plain JAX tracing without a key; see `fnn.rng`.

    References:
        Hinton et al., Improving neural networks by preventing co-adaptation of feature detectors,
        https://arxiv.org/abs/1207.0580

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> with fnn.rng(0):
        ...     sorted(set(dropout(jnp.ones(100), 0.75).tolist()))
        [0.0, 4.0]
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    x = array(input, "input")
    if not training or p == 0.0:
        return x
    if p == 1.0:
        return jnp.zeros_like(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise RuntimeError(f"dropout: result type float32 can't be cast to the desired output type {x.dtype.name}")
    keep = jax.random.bernoulli(next_key(), 1.0 - p, x.shape)
    return jnp.where(keep, x / (1.0 - p), jnp.zeros((), x.dtype))
