"""Activation layers."""

from __future__ import annotations

from typing import Any

import jax

from fnn import functional as F
from fnn.nn.modules.module import Module


class ReLU(Module):
    """`max(0, x)`, elementwise.

    Args:
        inplace: accepted; arrays are immutable, so the result is always a new one.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.ReLU()(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Any) -> jax.Array:
        return F.relu(input, self.inplace)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class GELU(Module):
    """`x · Φ(x)`, elementwise, with the distribution function of the normal distribution.

    Args:
        approximate: none, or tanh for an approximation.

    Shape:
        (*), and the same out.

    References:
        Hendrycks and Gimpel, Gaussian Error Linear Units, https://arxiv.org/abs/1606.08415

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.GELU()(jnp.array([0.0, 1.0])).round(4).tolist()
        [0.0, 0.8413]
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Any) -> jax.Array:
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"
