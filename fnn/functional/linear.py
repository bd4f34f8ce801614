"""Linear maps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.functional.checks import array, same_dtype

__all__ = ["linear"]


def linear(input: Any, weight: Any, bias: Any = None) -> jax.Array:
    """A linear map of the last axis: `input @ weight.T + bias`.

    Args:
        input: (*, in_features).
        weight: (out_features, in_features), or (in_features,).
        bias: (out_features,), or ().

    Returns:
        (*, out_features), or (*) for a weight of one axis.

    Raises:
        RuntimeError: where shapes do not fit or dtypes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> linear(jnp.array([1.0, 2.0]), jnp.array([[3.0, 4.0]]), jnp.array([5.0])).tolist()
        [16.0]
    """
    x, w = array(input, "input"), array(weight, "weight")
    b = None if bias is None else array(bias, "bias")
    same_dtype("linear", input=x, weight=w, bias=b)
    if w.ndim not in (1, 2):
        raise RuntimeError(f"linear: expected a weight of 1 or 2 dimensions, got shape {w.shape}")
    if x.ndim == 0 or x.shape[-1] != w.shape[-1]:
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied: expected an input of shape (*, {w.shape[-1]}) for a weight of shape "
            f"{w.shape}, got {x.shape}"
        )
    y = jnp.matmul(x, w.T)
    if b is None:
        return y
    if b.shape not in ((), w.shape[:-1]):
        raise RuntimeError(f"linear: expected a bias of shape {w.shape[:-1]}, got {b.shape}")
    return y + b
