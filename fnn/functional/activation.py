"""Activations."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp

from fnn.functional.checks import accumulating, array, axis, floating

__all__ = ["gelu", "log_softmax", "relu"]


def relu(input: Any, inplace: bool = False) -> jax.Array:
    """`max(0, x)`, elementwise.

    Args:
        input: any shape.
        inplace: accepted; arrays are immutable, so the result is always a new one.

    Raises:
        RuntimeError: for booleans and complex numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> relu(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    x = array(input, "input")
    if x.dtype == bool:
        raise RuntimeError("Boolean inputs not supported for relu")
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise NotImplementedError(f"relu is not supported for complex types, got {x.dtype.name}")
    return jax.nn.relu(x)


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
    floating("gelu", x.dtype)
    return jax.nn.gelu(accumulating(x), approximate=approximate == "tanh").astype(x.dtype)


def log_softmax(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> jax.Array:
    """`log(softmax(x))` along an axis.

    Args:
        input: any shape, floating point.
        dim: the axis; by default, which torch deprecates, 0 for inputs of 0, 1 or 3 axes and 1 for others.
        dtype: what to convert the input to first.

    Raises:
        IndexError: where the input has no such axis.

    Example:
        >>> import jax.numpy as jnp
        >>> log_softmax(jnp.zeros((1, 2)), dim=1).round(4).tolist()
        [[-0.6931, -0.6931]]
    """
    x = array(input, "input")
    x = x if dtype is None else x.astype(dtype)
    floating("log_softmax", x.dtype)
    if dim is None:
        dim = 0 if x.ndim in (0, 1, 3) else 1
        warnings.warn(
            f"Implicit dimension choice for log_softmax has been deprecated; pass dim={dim}.", stacklevel=_stacklevel - 1
        )
    along = axis(dim, x.ndim)
    return jax.nn.log_softmax(accumulating(x), axis=along).astype(x.dtype) if x.ndim else x - x
