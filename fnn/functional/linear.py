"""Linear maps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.functional.checks import accumulating, array, same_dtype

__all__ = ["bilinear", "linear"]


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


def bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> jax.Array:
    """A bilinear map of two last axes: `y_o = Σ_ij weight_oij input1_i input2_j + bias_o`.

    Args:
        input1: (*, in1_features).
        input2: (*, in2_features).
        weight: (out_features, in1_features, in2_features).
        bias: (out_features,).

    Returns:
        (*, out_features).

    Raises:
        RuntimeError: where shapes do not fit or dtypes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> bilinear(jnp.array([1.0, 2.0]), jnp.array([3.0]), jnp.array([[[1.0], [10.0]]])).tolist()
        [63.0]
    """
    x, y, w = array(input1, "input1"), array(input2, "input2"), array(weight, "weight")
    b = None if bias is None else array(bias, "bias")
    same_dtype("bilinear", input1=x, input2=y, weight=w, bias=b)
    if x.ndim == 0 or y.ndim == 0:
        raise IndexError(f"bilinear(): expected inputs of at least one dimension, got shapes {x.shape} and {y.shape}")
    if x.shape[:-1] != y.shape[:-1]:
        raise RuntimeError(f"bilinear(): input batch dimensions do not match: got shapes {x.shape} and {y.shape}")
    if w.ndim != 3 or w.shape[1:] != (x.shape[-1], y.shape[-1]) or 0 in w.shape[1:]:
        raise RuntimeError(
            f"bilinear(): expected a weight of shape (out_features, {x.shape[-1]}, {y.shape[-1]}), neither of them 0, got "
            f"{w.shape}"
        )
    if b is not None and b.shape != w.shape[:1]:
        raise RuntimeError(f"bilinear(): expected a bias of shape {w.shape[:1]}, got {b.shape}")
    if x.dtype == bool:
        raise NotImplementedError('"bilinear" not implemented for bool')
    out = jnp.einsum("...i,...j,oij->...o", accumulating(x), accumulating(y), accumulating(w))
    return (out if b is None else out + b).astype(x.dtype)
