"""Dropout layers."""

from __future__ import annotations

from typing import Any

import jax

from fnn import functional as F
from fnn.nn.modules.module import Module

__all__ = ["Dropout"]


class Dropout(Module):
    """In training, sets elements to zero with probability p, and divides the others by 1 − p.

    Masks are drawn from the default generator, from the key of `apply(..., rng=key)`, or inside `with fnn.rng(key)`.

    Args:
        p: the probability.
        inplace: accepted; arrays are immutable, so the result is always a new one.

    Shape:
        (*), and the same out.

    Raises:
        ValueError: where p is not between 0 and 1.

    References:
        Hinton et al., Improving neural networks by preventing co-adaptation of feature detectors,
        https://arxiv.org/abs/1207.0580

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> dropout = nn.Dropout(0.75)
        >>> set(dropout(jnp.ones(100)).tolist()) <= {0.0, 4.0}
        True
        >>> dropout.eval()(jnp.ones(2)).tolist()
        [1.0, 1.0]
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p = p
        self.inplace = inplace

    def forward(self, input: Any) -> jax.Array:
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"
