"""Softmax and its logarithm, and what a cross entropy takes of them, in few passes over memory, forward and backward."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.kernels import plain
from fnn.kernels.fusion import apart
from fnn.kernels.sharding import is_divided

__all__ = ["log_softmax", "log_sum", "pick", "softmax"]


@functools.partial(jax.jit, static_argnames="axis")
def softmax(x: jax.Array, axis: int) -> jax.Array:
    """`exp(x) / Σ exp(x)` along an axis."""
    if plain() or not x.size:
        return jax.nn.softmax(x, axis=axis)
    if is_divided(x):
        return _softmax(x, axis)
    # XLA:CPU's sum of a product takes 4 times as long where the first axis has one element: 1x8x128x128 with its gradient
    # 0.62 ms, 8x128x128 0.24 ms.
    axis %= x.ndim
    single = tuple(i for i, size in enumerate(x.shape) if size == 1 and i != axis)
    y = _softmax(lax.squeeze(x, single), axis - sum(i < axis for i in single))
    return lax.expand_dims(y, single)


@functools.partial(jax.jit, static_argnames="axis")
def log_softmax(x: jax.Array, axis: int) -> jax.Array:
    """`x − log Σ exp(x)` along an axis."""
    if plain() or not x.size:
        return jax.nn.log_softmax(x, axis=axis)
    largest, total = _log_sum(x, axis)
    return (x - largest) - total


@functools.partial(jax.jit, static_argnames="axis")
def log_sum(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The largest value along an axis, which is kept, and the logarithm of the sum of `exp(x − largest)`.

    Their sum is `log Σ exp(x)`. The derivative is that of the sum, and given to the logarithm alone.
    """
    return _stock_log_sum(x, axis) if plain() else _log_sum(x, axis)


@functools.partial(jax.jit, static_argnames="axis")
def pick(x: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    """The element at an index along an axis, which is kept. The index is in range."""
    return jnp.take_along_axis(x, index, axis, mode="fill") if plain() else _pick(x, index, axis)


def _stock_log_sum(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    largest = lax.stop_gradient(jnp.max(x, axis, keepdims=True))
    return largest, jnp.log(jnp.exp(x - largest).sum(axis, keepdims=True))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_sum(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    largest, total = _stock_log_sum(x, axis)
    return apart(largest), apart(total)


@_log_sum.defjvp
def _log_sum_jvp(axis: int, primals: Any, tangents: Any) -> Any:
    (x,), (tangent,) = primals, tangents
    # From the powers, which are kept: computed again, cross entropy of 1024x1000 with its gradient takes 1.5 times as long.
    largest, powers, total = _powers(x, axis)
    moved = (powers * tangent).sum(axis, keepdims=True) * (1 / total)
    return (largest, apart(jnp.log(total))), (jnp.zeros_like(largest), apart(moved))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _pick(x: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    return jnp.take_along_axis(x, index, axis, mode="fill")


@_pick.defjvp
def _pick_jvp(axis: int, primals: Any, tangents: Any) -> Any:
    x, index = primals
    # The transpose of a comparison is one, and part of the loop that it is added in; that of a gather is a scatter.
    chosen = lax.broadcasted_iota(index.dtype, x.shape, axis) == index
    return _pick(x, index, axis), jnp.where(chosen, tangents[0], 0).sum(axis, keepdims=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _softmax(x: jax.Array, axis: int) -> jax.Array:
    _, powers, total = _powers(x, axis)
    return powers * (1 / total)


@_softmax.defjvp
def _softmax_jvp(axis: int, primals: Any, tangents: Any) -> Any:
    (x,), (tangent,) = primals, tangents
    _, powers, total = _powers(x, axis)
    share = 1 / total
    # Of the powers instead of the result, so that the sum has a product of its own, and none is written out for both.
    moved = apart((powers * tangent).sum(axis, keepdims=True))
    return _softmax(x, axis), powers * share * tangent - powers * (share * share * moved)


def _powers(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The largest value, `exp(x − largest)`, and its sum."""
    largest = apart(jnp.max(x, axis, keepdims=True))
    powers = jnp.exp(x - largest)
    return largest, powers, apart(powers.sum(axis, keepdims=True))
