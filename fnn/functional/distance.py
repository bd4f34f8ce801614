"""Distances and similarities."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.eager import compiled
from fnn.functional.checks import accumulating, array, axis, promoted
from fnn.precision import to_float32

__all__ = ["cosine_similarity", "pairwise_distance", "pdist"]


def absolute(x: jax.Array) -> jax.Array:
    """`|x|`, with torch's gradient where it has no sign: 0. That of `jnp.abs` at 0 is 1."""
    size = jnp.abs(x)
    return jnp.where((x == 0) | jnp.isnan(x), lax.stop_gradient(size), size)


def vector_norm(x: jax.Array, p: float, axis: int | tuple[int, ...], keepdims: bool = False) -> jax.Array:
    """`(Σ |x|^p)^(1/p)` along one or more axes, with a zero gradient where it is zero."""
    size = absolute(x)
    if p == 0:
        return (x != 0).astype(size.dtype).sum(axis, keepdims=keepdims)
    if p == 1:
        return size.sum(axis, keepdims=keepdims)
    if math.isinf(p):
        return (size.max if p > 0 else size.min)(axis, keepdims=keepdims)
    if p == 2:
        powers = jnp.square(size)
    else:
        powers = jnp.where(size == 0, 0 if p > 0 else np.inf, jnp.where(size == 0, 1, size) ** p)
    total = powers.sum(axis, keepdims=keepdims)
    some = jnp.where(total == 0, 1, total)
    return jnp.where(total == 0, 0, jnp.sqrt(some) if p == 2 else some ** (1 / p))


def floored(x: jax.Array, least: float) -> jax.Array:
    """`max(x, least)` with the gradient of x."""
    return jnp.where(x < least, least + (x - lax.stop_gradient(x)), x)


@compiled
def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> jax.Array:
    """The distance of rows: `(Σ |x1 − x2 + eps|^p)^(1/p)` over the last axis.

    Args:
        x1: (N, D) or (D,), or any shape.
        x2: of the same shape, or one that broadcasts with it.
        p: the power of the norm; 0 counts what differs, infinity takes the largest.
        eps: added to the difference, so that the gradient is never of a zero vector.
        keepdim: keep the last axis, with size 1.

    Returns:
        (N,) or (), with a last axis of 1 if `keepdim`.

    Raises:
        RuntimeError: where shapes do not broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> pairwise_distance(jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2))).round(3).tolist()
        [5.0]
    """
    x1, x2 = to_float32(x1, x2)
    if array(x1, "x1").dtype == bool and array(x2, "x2").dtype == bool:
        raise RuntimeError("pairwise_distance: subtraction is not supported for two bool operands")
    (a, b), dtype = promoted("pairwise_distance", inexact=True, x1=x1, x2=x2)
    difference = a - b + eps
    if difference.ndim == 0:
        return vector_norm(difference[None], p, 0).astype(jnp.finfo(dtype).dtype)
    if difference.shape[-1] == 0 and (p < 0 or p == math.inf):
        raise RuntimeError(f"pairwise_distance: there is no {p} norm of an empty axis, got size {list(difference.shape)}")
    return vector_norm(difference, p, -1, keepdim).astype(jnp.finfo(dtype).dtype)


@compiled
def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> jax.Array:
    """The cosine of the angle between vectors: `x1 · x2 / (max(‖x1‖, eps) · max(‖x2‖, eps))` along an axis.

    Args:
        x1: any shape.
        x2: of the same shape, or one that broadcasts with it.
        dim: the axis of the vectors.
        eps: the least norm to divide by.

    Returns:
        The broadcast shape without the axis.

    Raises:
        IndexError: where there is no such axis.
        RuntimeError: where shapes do not broadcast, and for integers and complex numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> cosine_similarity(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]])).round(4).tolist()
        [0.7071]
    """
    x1, x2 = to_float32(x1, x2)
    (a, b), dtype = promoted("cosine_similarity", x1=x1, x2=x2)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise RuntimeError(f"cosine_similarity: expected common dtype to be floating point, yet common dtype is {dtype.name}")
    a, b = jnp.broadcast_arrays(a, b)
    if a.ndim == 0:
        axis(dim, 0)
        a, b, dim = a[None], b[None], 0
    along = axis(dim, a.ndim)
    a, b = (v / floored(vector_norm(v, 2, along, keepdims=True), eps) for v in (a, b))
    return (a * b).sum(along).astype(dtype)


@jax.custom_jvp
def _largest(x: jax.Array) -> jax.Array:
    """The largest along the last axis; unlike that of `max`, its gradient is whole for each of several."""
    return x.max(-1)


@_largest.defjvp
def _largest_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (tangent,) = primals, tangents
    largest = _largest(x)
    return largest, jnp.where(x == largest[..., None], tangent, 0).sum(-1)


@compiled
def pdist(input: Any, p: float = 2) -> jax.Array:
    """The p-norm distance of each pair of rows: `‖x_i − x_j‖_p` for i < j.

    Args:
        input: (N, D).
        p: the power of the norm, 0 or more.

    Returns:
        (N (N − 1) / 2,), in the order (0, 1), (0, 2), ..., (1, 2), ...

    Raises:
        RuntimeError: where the input has not two axes or is not floating point, or p is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> pdist(jnp.array([[0.0], [1.0], [3.0]])).tolist()
        [1.0, 3.0, 2.0]
    """
    x = array(to_float32(input), "input")
    if x.ndim != 2:
        raise RuntimeError(f"pdist only supports 2D tensors, got: {x.ndim}D of size {list(x.shape)}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise RuntimeError(f"pdist only supports floating-point dtypes, got {x.dtype.name}")
    if not p >= 0:
        raise RuntimeError(f"pdist only supports non-negative p values, got {p}")
    rows = accumulating(x)
    pairs = np.triu_indices(len(rows), 1)
    if x.shape[1] == 0:
        return jnp.zeros(len(pairs[0]), x.dtype)
    # All N² distances reduce without a temporary; rows gathered for each pair would be one.
    difference = rows[:, None] - rows[None]
    distances = _largest(absolute(difference)) if p == math.inf else vector_norm(difference, p, -1)
    if p == 0:  # which counts what is not 0, and NaN here like no number
        distances = jnp.where(jnp.isnan(difference).any(-1), jnp.nan, distances)
    return distances[pairs].astype(x.dtype)
