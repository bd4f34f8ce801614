"""A part of the batch at a time, so that what an algorithm makes stays in the caches."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import lax

from fnn.kernels.conv.form import Form

Algorithm = Callable[[Form, jax.Array, jax.Array], jax.Array]


def part(batch: int, size: int, limit: int) -> int:
    """The largest part that divides the batch and has at most so many bytes; at least one sample.

    Args:
        size: of a sample, in bytes.
        limit: in bytes.
    """
    return max(count for count in range(1, batch + 1) if batch % count == 0 and (count == 1 or count * size <= limit))


def chunked(which: str, algorithm: Algorithm, count: int, form: Form, a: jax.Array, b: jax.Array) -> jax.Array:
    """From `count` samples at a time: y or x, which have the batch, or w, which is a sum over it."""
    if (b if which == "x" else a).shape[0] == count:
        return algorithm(form, a, b)

    def split(z: jax.Array) -> jax.Array:
        return z.reshape(-1, count, *z.shape[1:])

    if which == "w":
        return lax.map(lambda few: algorithm(form, *few), (split(a), split(b))).sum(0)
    if which == "y":
        parts = lax.map(lambda few: algorithm(form, few, b), split(a))
    else:
        parts = lax.map(lambda few: algorithm(form, a, few), split(b))
    return parts.reshape(-1, *parts.shape[2:])
