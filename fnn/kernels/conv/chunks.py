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


def mapped(algorithm: Algorithm, count: int, form: Form, x: jax.Array, w: jax.Array) -> jax.Array:
    """Of a result with the batch, from `count` samples at a time."""
    if x.shape[0] == count:
        return algorithm(form, x, w)
    y = lax.map(lambda few: algorithm(form, few, w), x.reshape(-1, count, *x.shape[1:]))
    return y.reshape(-1, *y.shape[2:])


def summed(algorithm: Algorithm, count: int, form: Form, x: jax.Array, y: jax.Array) -> jax.Array:
    """Of a result that is a sum over the batch, from `count` samples at a time."""
    if x.shape[0] == count:
        return algorithm(form, x, y)
    few = x.reshape(-1, count, *x.shape[1:]), y.reshape(-1, count, *y.shape[1:])
    return lax.map(lambda pair: algorithm(form, *pair), few).sum(0)
