"""Normalization by moments, with tangents that are linear in few terms, so that gradients take few passes over memory.

Where nothing is differentiated, the stock form is as fast or faster, but for moments of maps and the mean of squares.

A term is an array of the input's size, times what has one number a row or a channel. The arithmetic between moments and
these numbers (groups, weights, sums over devices) is on small arrays, and differentiated as JAX does.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.kernels import plain
from fnn.kernels.fusion import apart
from fnn.kernels.sharding import is_divided

__all__ = ["moments", "normalize_features", "root_mean_square_features", "standardize"]


@functools.partial(jax.jit, static_argnames=("axes", "axis_name", "groups"))
def moments(
    x: jax.Array, axes: tuple[int, ...], axis_name: Any = None, groups: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """The mean and the biased variance over axes, which are kept with size 1.

    Args:
        x: (N, C, *).
        axes: the axes.
        axis_name: a named axis of JAX, or several, to take them over, too.
        groups: the channels are split in so many groups of neighbours, and moments are a group's; each channel has them.
    """
    return (_stock_moments if _is_stock(x) else _moments)(x, axes, axis_name, groups)


@jax.jit
def standardize(x: jax.Array, mean: Any, var: Any, eps: Any, weight: Any, bias: Any) -> jax.Array:
    """`(x − mean) / √(var + eps) · weight + bias`, for parts that broadcast against x; weight and bias may be None."""
    return (_stock_standard if _is_stock(x) else _standard)(x, mean, var, eps, weight, bias)


def _stock_standard(x: jax.Array, mean: Any, var: Any, eps: Any, weight: Any, bias: Any) -> jax.Array:
    y = (x - mean) * lax.rsqrt(var + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _standard_by_terms(x: jax.Array, mean: Any, var: Any, eps: Any, weight: Any, bias: Any) -> jax.Array:
    scale = lax.rsqrt(var + eps)
    scale = scale if weight is None else scale * weight.astype(x.dtype)
    shift = jnp.zeros((1,) * x.ndim, x.dtype) if bias is None else bias.astype(x.dtype)
    return _scaled(x, mean, scale, shift)


_standard = jax.custom_jvp(_stock_standard)
_standard.defjvp(functools.partial(jax.jvp, _standard_by_terms))


@functools.partial(jax.jit, static_argnames="axes")
def normalize_features(x: jax.Array, axes: tuple[int, ...], weight: Any, bias: Any, eps: Any) -> jax.Array:
    """`(x − E[x]) / √(Var[x] + eps) · weight + bias`, of the last axes, which weight and bias have; both may be None."""
    if all(x.shape[axis] == 1 for axis in axes):
        x = x - x  # not minus the mean: the terms of its gradient, 1/√eps times what is left, would be rounded apart
    return (_stock_features if _is_stock(x) else _features)(x, axes, weight, bias, eps)


def _stock_features(x: jax.Array, axes: tuple[int, ...], weight: Any, bias: Any, eps: Any) -> jax.Array:
    return _stock_standard(x, *_stock_moments(x, axes, None, None), eps, weight, bias)


_features = jax.custom_jvp(_stock_features, nondiff_argnums=(1,))  # 4096x768, over stock: by terms 1.0, in 16 bits 1.8


@_features.defjvp
def _features_jvp(axes: tuple[int, ...], primals: Any, tangents: Any) -> Any:
    def by_terms(x: jax.Array, weight: Any, bias: Any, eps: Any) -> jax.Array:
        mean, var = moments(x, axes)
        if weight is None or is_divided(x):
            return standardize(x, mean, var, eps, weight, bias)
        weight, bias = weight.astype(x.dtype), jnp.zeros_like(weight, x.dtype) if bias is None else bias.astype(x.dtype)
        return _weighted(x, mean.squeeze(axes), var.squeeze(axes) + eps, weight, bias)

    return jax.jvp(by_terms, primals, tangents)


@functools.partial(jax.jit, static_argnames="axes")
def root_mean_square_features(x: jax.Array, axes: tuple[int, ...], weight: Any, eps: Any) -> jax.Array:
    """`x / √(E[x²] + eps) · weight`, of the last axes, which the weight has; it may be None."""
    if _is_stock(x) or jnp.iscomplexobj(x):
        y = x * lax.rsqrt(jnp.square(x).mean(axes, keepdims=True) + eps)
        return y if weight is None else y * weight
    square = apart(jnp.square(x).mean(axes, keepdims=True))
    if weight is None or jnp.iscomplexobj(weight) or is_divided(x):
        return standardize(x, jnp.zeros_like(square), square, eps, weight, None)
    square = square.squeeze(axes)
    weight = weight.astype(x.dtype)
    return _weighted(x, jnp.zeros_like(square), square + eps, weight, jnp.zeros_like(weight))


def _is_stock(x: jax.Array) -> bool:
    return plain() or not x.size


def _stock_moments(x: jax.Array, axes: tuple[int, ...], axis_name: Any, groups: int | None) -> tuple[jax.Array, jax.Array]:
    mean = _mean(x, axes, axis_name, groups)
    return mean, _mean(jnp.square(x - mean), axes, axis_name, groups)


def _mean(x: jax.Array, axes: tuple[int, ...], axis_name: Any, groups: int | None) -> jax.Array:
    x = x.mean(axes, keepdims=True)
    if axis_name is not None:
        x = lax.pmean(x, axis_name)
    if groups is None:
        return x
    # Of the channels' means, which are few: an input in the shape of groups is slow to read together with one that is not.
    batch, channels, *space = x.shape
    grouped = x.reshape(batch, groups, channels // groups, *space)
    return jnp.broadcast_to(grouped.mean(2, keepdims=True), grouped.shape).reshape(x.shape)


# XLA:CPU computes a difference that several reductions and loops want once, and writes it out. Hence there are three below:
# from the mean itself for the variance, from `apart` of it for loops, and from `apart` of that for sums of the gradient.


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _moments(x: jax.Array, axes: tuple[int, ...], axis_name: Any, groups: int | None) -> tuple[jax.Array, jax.Array]:
    mean, var = _stock_moments(x, axes, axis_name, groups)
    return apart(mean), apart(var)


@_moments.defjvp
def _moments_jvp(axes: tuple[int, ...], axis_name: Any, groups: int | None, primals: Any, tangents: Any) -> Any:
    (x,), (tangent,) = primals, tangents
    mean, var = _moments(x, axes, axis_name, groups)
    # That the mean moves, too, changes the variance by the mean of `x - mean`, which is 0.
    moved = 2 * _mean((x - mean) * tangent, axes, axis_name, groups)
    return (mean, var), (apart(_mean(tangent, axes, axis_name, groups)), apart(moved))


@jax.custom_jvp
def _scaled(x: jax.Array, mean: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """`(x − mean) · scale + shift`."""
    return (x - mean) * scale + shift


@_scaled.defjvp
def _scaled_jvp(primals: Any, tangents: Any) -> Any:
    (x, mean, scale, _), (dx, dmean, dscale, dshift) = primals, tangents
    # Transposed, one sum of the cotangent and one of its product with the input, however many parts there are.
    return _scaled(*primals), dx * scale + ((x - apart(mean)) * dscale + (dshift - scale * dmean))


@jax.custom_jvp
def _weighted(x: jax.Array, mean: jax.Array, var: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    """`(x − mean) / √var · weight + bias`, with a mean and a variance a row."""
    rows = (*range(mean.ndim),)
    features = (*range(mean.ndim, x.ndim),)
    return (x - jnp.expand_dims(mean, features)) * jnp.expand_dims(lax.rsqrt(var), features) * jnp.expand_dims(
        weight, rows
    ) + jnp.expand_dims(bias, rows)


@_weighted.defjvp
def _weighted_jvp(primals: Any, tangents: Any) -> Any:
    (x, mean, var, weight, _), (dx, dmean, dvar, dweight, dbias) = primals, tangents
    features = tuple(range(mean.ndim, x.ndim))
    root = lax.rsqrt(var)
    scale = jnp.expand_dims(root, features)
    standard = (x - jnp.expand_dims(mean, features)) * scale
    of_rows = _outer(-0.5 * root * root * dvar, weight) + dweight
    return _weighted(*primals), dx * scale * weight + standard * of_rows + (_outer(-root * dmean, weight) + dbias)


def _outer(rows: jax.Array, features: jax.Array) -> jax.Array:
    """The product of all pairs. Its transposes are sums over features as products with a vector, which are faster."""
    if jax.default_backend() != "cpu":
        return jnp.expand_dims(rows, tuple(range(rows.ndim, rows.ndim + features.ndim))) * features
    return lax.dot_general(rows, features, (((), ()), ((), ())), precision=lax.Precision.HIGHEST)
