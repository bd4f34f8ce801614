"""Attention."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from fnn.eager import compiled
from fnn.functional.checks import array, broadcast, floating, same_dtype
from fnn.kernels.attention import attention
from fnn.precision import to_lower
from fnn.random import next_key

__all__ = ["scaled_dot_product_attention"]

_NAME = "scaled_dot_product_attention"


@compiled
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
    """Means of the values, weighted by how a query matches the keys: `softmax(scale · query keyᵀ + attn_mask) value`.

    Memory grows linearly with L and S, in the gradient too: long inputs go block by block, and weights are computed again.

    Args:
        query: (..., L, E).
        key: (..., S, E).
        value: (..., S, Ev).
        attn_mask: broadcasts to (..., L, S). A float, of the query's dtype or float32, is added to the scores; a bool is True
            for the keys that take part.
        dropout_p: the probability that a weight is set to zero; where it is not 0, dropout is applied, in any mode.
        is_causal: whether query i sees the keys 0 to i only, also where L and S differ.
        scale: of the scores; 1 / sqrt(E) by default.
        enable_gqa: whether heads, the third axis from the end, of key and value serve several heads of query each.

    Returns:
        (..., L, Ev), of the query's dtype. Leading axes broadcast. A query that sees no key has 0, and gradients of 0.

    Raises:
        RuntimeError: where shapes do not fit, dtypes differ or are of integers, a mask is given besides is_causal, or
            dropout_p is not between 0 and 1.
        IndexError: for enable_gqa without an axis of heads.
        NotImplementedError: for complex dtypes.
        StateError: for dropout under plain JAX tracing without a key; see `fnn.rng`.

    References:
        Vaswani et al., Attention is all you need, https://arxiv.org/abs/1706.03762
        Rabe and Staats, Self-attention does not need O(n²) memory, https://arxiv.org/abs/2112.05682

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0], [3.0]])
        >>> scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.0).tolist()
        [[1.0], [2.0]]
    """
    query, key, value, attn_mask = to_lower(query, key, value, attn_mask)
    q, k, v = array(query, "query"), array(key, "key"), array(value, "value")
    _check_operands(q, k, v)
    dropout = _number(dropout_p, "dropout_p")
    if not 0.0 <= dropout <= 1.0:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {dropout}")
    for name, flag in (("is_causal", is_causal), ("enable_gqa", enable_gqa)):
        if not isinstance(flag, bool):
            raise TypeError(f"{_NAME}(): argument '{name}' must be bool, not {type(flag).__name__}")
    factor = (1.0 / math.sqrt(q.shape[-1] or 1)) if scale is None else _number(scale, "scale")
    scores = (*broadcast(_NAME, q.shape[:-2], _repeated(k, q, enable_gqa)), q.shape[-2], k.shape[-2])
    broadcast(_NAME, scores[:-2], _repeated(v, q, enable_gqa))
    mask = None if attn_mask is None else _checked_mask(attn_mask, scores, q.dtype)
    if mask is not None and is_causal:
        raise RuntimeError(f"{_NAME}: Explicit attn_mask should not be set when is_causal=True, got one of {list(mask.shape)}")

    ndim = max(q.ndim, k.ndim, v.ndim)
    q, k, v = (x.reshape((1,) * (ndim - x.ndim) + x.shape) for x in (q, k, v))
    mask = None if mask is None else mask.reshape((1,) * (ndim - mask.ndim) + mask.shape)
    if enable_gqa and k.shape[-3] != v.shape[-3]:
        k, v = (jnp.repeat(x, q.shape[-3] // x.shape[-3], -3) for x in (k, v))
    grouped = enable_gqa and k.shape[-3] != q.shape[-3]
    if grouped:
        heads = k.shape[-3]
        q, k, v = (_grouped(x, heads) for x in (q, k, v))
        mask = None if mask is None else _grouped(mask, heads)
    random_key = next_key() if dropout else None
    result = attention(q, k, v, mask, random_key, causal=is_causal, scale=factor, dropout=dropout)
    return result.reshape(*result.shape[:-4], result.shape[-4] * result.shape[-3], *result.shape[-2:]) if grouped else result


def _check_operands(q: jax.Array, k: jax.Array, v: jax.Array) -> None:
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise RuntimeError(
            f"Expected query, key, and value to all be at least 2 dimensional, but got query.dim: {q.ndim}, key.dim: {k.ndim} "
            f"and value.dim: {v.ndim} instead."
        )
    same_dtype(_NAME, query=q, key=k, value=v)
    if jnp.issubdtype(q.dtype, jnp.integer) or q.dtype == bool:
        raise RuntimeError(f"{_NAME}: expected a floating-point dtype, got {q.dtype.name}")
    floating(_NAME, q.dtype)
    if q.shape[-1] != k.shape[-1]:
        raise RuntimeError(f"{_NAME}: expected key of size (..., {q.shape[-1]}) for query {q.shape}, got {k.shape}")
    if k.shape[-2] != v.shape[-2]:
        raise RuntimeError(f"{_NAME}: expected value of size (..., {k.shape[-2]}, Ev) for key {k.shape}, got {v.shape}")


def _checked_mask(attn_mask: Any, scores: tuple[int, ...], dtype: Any) -> jax.Array:
    """The mask with two axes at least; it broadcasts to the scores, without enlarging them."""
    mask = array(attn_mask, "attn_mask")
    if mask.dtype not in (bool, jnp.float32, dtype):
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got attn_mask.dtype: "
            f"{mask.dtype.name} and query.dtype: {dtype.name} instead."
        )
    if broadcast(_NAME, mask.shape, scores) != scores or mask.ndim > len(scores):
        raise RuntimeError(f"{_NAME}: expected attn_mask to broadcast to {list(scores)}, got {list(mask.shape)}")
    return jnp.atleast_2d(mask)


def _repeated(x: jax.Array, q: jax.Array, enable_gqa: bool) -> tuple[int, ...]:
    """The leading sizes of key or value, where its heads are counted once for each head of query that they serve."""
    if not enable_gqa:
        return x.shape[:-2]
    if min(x.ndim, q.ndim) < 3:
        raise IndexError(f"{_NAME}: enable_gqa needs operands of 3 dimensions at least, got {q.shape} and {x.shape}")
    if x.shape[-3] != q.shape[-3] and (not x.shape[-3] or q.shape[-3] % x.shape[-3]):
        raise RuntimeError(
            f"Number of heads in key and value must divide the number of heads in query, got {x.shape[-3]} and {q.shape[-3]}"
        )
    return (*x.shape[:-3], q.shape[-3])


def _grouped(x: jax.Array, heads: int) -> jax.Array:
    """The axis of heads as two: (..., heads, n, *, *), so that heads of query broadcast against the one they share."""
    size = x.shape[-3]
    split = (1, 1) if size == 1 else (heads, size // heads)
    return x.reshape(*x.shape[:-3], *split, *x.shape[-2:])


def _number(value: Any, name: str) -> float:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{_NAME}(): argument '{name}' must be float, not {type(value).__name__}")
    return float(value)
