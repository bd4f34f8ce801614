"""Activation layers."""

from __future__ import annotations

from fnn import functional as F
from fnn.nn.modules.function import FunctionModule

__all__ = ["GELU", "ReLU"]


class ReLU(FunctionModule):
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

    _function = staticmethod(F.relu)

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(inplace=inplace)


class GELU(FunctionModule):
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

    _function = staticmethod(F.gelu)

    def __init__(self, approximate: str = "none") -> None:
        super().__init__(approximate=approximate)
