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
    operands = [a, b]
    batched = {"y": [0], "x": [1], "w": [0, 1]}[which]
    if operands[batched[0]].shape[0] == count:
        return algorithm(form, a, b)

    def of_few(few: list[jax.Array]) -> jax.Array:
        parts = dict(enumerate(operands)) | dict(zip(batched, few, strict=True))
        return algorithm(form, parts[0], parts[1])

    parts = lax.map(of_few, [operands[i].reshape(-1, count, *operands[i].shape[1:]) for i in batched])
    return parts.sum(0) if which == "w" else parts.reshape(-1, *parts.shape[2:])
