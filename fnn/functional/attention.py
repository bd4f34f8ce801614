"""Attention."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from fnn.functional.checks import array, broadcast, floating, same_dtype
from fnn.kernels.attention import attention
from fnn.random import next_key

__all__ = ["scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> jax.Array:
    """Means of values, weighted by how queries match keys: `softmax(scale query keyᵀ + attn_mask) value`.

    Args:
        query: (..., L, E).
        key: (..., S, E).
        value: (..., S, Ev).
        attn_mask: broadcasts to (..., L, S). A float is added to the scores; a bool says which keys take part.
        dropout_p: the probability that a weight is set to zero, whether training or not.
        is_causal: whether a query i sees the keys 0 to i only.
        scale: 1 / sqrt(E) by default.
        enable_gqa: whether the heads of the third axis from the end of query share those of key and value.

    Returns:
        (..., L, Ev). A query that sees no key has 0.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0], [3.0]])
        >>> scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.0).tolist()
        [[1.0], [2.0]]
    """
    name = "scaled_dot_product_attention"
    q, k, v = array(query, "query"), array(key, "key"), array(value, "value")
    mask = None if attn_mask is None else array(attn_mask, "attn_mask")
    same_dtype(name, query=q, key=k, value=v)
    floating(name, q.dtype)
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise RuntimeError(
            f"Expected query, key, and value to all be at least 2 dimensional, but got query.dim: {q.ndim} "
            f"key.dim: {k.ndim} and value.dim: {v.ndim} instead."
        )
    if is_causal and mask is not None:
        raise RuntimeError(f"{name}: Explicit attn_mask should not be set when is_causal=True")
    if not 0.0 <= dropout_p <= 1.0:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {dropout_p}")
    if enable_gqa:
        k, v = (jnp.repeat(x, q.shape[-3] // x.shape[-3], -3) for x in (k, v))
    batch = broadcast(name, q.shape[:-2], k.shape[:-2], v.shape[:-2])
    del batch
    scale = (1.0 / math.sqrt(q.shape[-1]) if q.shape[-1] else 1.0) if scale is None else scale
    return attention(q, k, v, mask, is_causal, scale, dropout_p, next_key() if dropout_p else None)
