"""Attention."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def accumulating(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    causal: bool,
    scale: float,
    dropout: float,
    random_key: jax.Array | None,
) -> jax.Array:
    """Attention, of leading axes that broadcast."""
    scores = accumulating(jnp.einsum("...le,...se->...ls", accumulating(query) * scale, accumulating(key)))
    if mask is not None:
        scores += jnp.where(mask, 0.0, -jnp.inf).astype(scores.dtype) if mask.dtype == bool else mask.astype(scores.dtype)
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(scores, -1, keepdims=True, initial=-jnp.inf))
    weights = jnp.exp(scores - jnp.where(largest == -jnp.inf, 0.0, largest))
    total = weights.sum(-1, keepdims=True)
    if random_key is not None:
        keep = jax.random.bernoulli(random_key, 1.0 - dropout, weights.shape)
        weights *= jnp.where(keep, 0.0 if dropout == 1.0 else 1.0 / (1.0 - dropout), 0.0).astype(weights.dtype)
    mixed = jnp.einsum("...ls,...se->...le", weights, accumulating(value))
    return (mixed / jnp.where(total == 0.0, 1.0, total)).astype(query.dtype)
