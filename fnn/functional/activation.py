"""Activations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.functional.checks import array, floating


def relu(input: Any, inplace: bool = False) -> jax.Array:
    """`max(0, x)`, elementwise.

    Args:
        input: any shape.
        inplace: accepted; arrays are immutable, so the result is always a new one.

    Example:
        >>> import jax.numpy as jnp
        >>> relu(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    return jax.nn.relu(array(input, "input"))


def gelu(input: Any, approximate: str = "none") -> jax.Array:
    """`x · Φ(x)`, elementwise, with the distribution function of the normal distribution.

    Args:
        input: any shape, floating point.
        approximate: none, or tanh for `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`.

    Raises:
        RuntimeError: for another approximation.

    References:
        Hendrycks and Gimpel, Gaussian Error Linear Units, https://arxiv.org/abs/1606.08415

    Example:
        >>> import jax.numpy as jnp
        >>> gelu(jnp.array([0.0, 1.0])).round(4).tolist()
        [0.0, 0.8413]
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"approximate argument must be either none or tanh, got {approximate!r}")
    x = array(input, "input")
    floating("gelu", x)
    return jax.nn.gelu(x, approximate=approximate == "tanh")


def log_softmax(input: Any, dim: int | None = None, dtype: Any = None) -> jax.Array:
    """`log(softmax(x))` along an axis.

    Args:
        input: any shape, floating point.
        dim: the axis; by default 0 for inputs of 0, 1 or 3 axes and 1 for others, as in torch.
        dtype: what to convert the input to first.

    Example:
        >>> import jax.numpy as jnp
        >>> log_softmax(jnp.zeros((1, 2)), dim=1).round(4).tolist()
        [[-0.6931, -0.6931]]
    """
    x = array(input, "input")
    x = x if dtype is None else x.astype(dtype)
    floating("log_softmax", x)
    return (
        jax.nn.log_softmax(x, axis=(0 if x.ndim in (0, 1, 3) else 1) if dim is None else dim) if x.ndim else jnp.zeros_like(x)
    )
