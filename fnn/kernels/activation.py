"""Activations of exponentials, whose tangents compute few of them, and few passes over memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.kernels import plain
from fnn.kernels.fusion import apart

__all__ = ["mish", "silu", "softplus"]

# With their gradients, of float32, times over those of the stock operation:
#
#   elements   softplus   mish   silu
#       6400     0.7      0.36    1
#     393216     0.54     0.31    1
#    1605632     0.48     0.31    1
#    2097152                      1.0
#    3145728                      0.8
#    6291456                      0.8
SHORT = 2**14  # elements up to which the stock logarithm is as fast, and one call of all of them without another thread
LARGE = 3 * 2**20  # elements from which memory takes longer than an exponential


def softplus(x: jax.Array, summed: bool = False) -> jax.Array:
    """`log(1 + exp(x))`, with an error of up to 4 units in the last place.

    Args:
        x: of real floating point.
        summed: whether what follows is a sum, which XLA:CPU computes together with its own logarithm.
    """
    if plain():
        return jax.nn.softplus(x)
    return _softplus_by_stock(x) if summed or x.size < SHORT or x.dtype != jnp.float32 else _softplus(x)


@jax.custom_jvp
def _softplus(x: jax.Array) -> jax.Array:
    # log(1 + e) = 2 artanh(e / (2 + e)), for e up to 1, by a polynomial with the relative error 4e-9; XLA's is two of them.
    power = jnp.exp(-jnp.abs(x))
    ratio = power / (power + 2)
    square = ratio * ratio
    series = (((0.14087329 * square + 0.13980709) * square + 0.20012427) * square + 0.33333158) * square + 1
    return jnp.maximum(x, 0) + 2 * ratio * series


@jax.custom_jvp
def _softplus_by_stock(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def _softplus_jvp(function: Any) -> Any:
    return lambda primals, tangents: (function(*primals), lax.logistic(primals[0]) * tangents[0])


_softplus.defjvp(_softplus_jvp(_softplus))
_softplus_by_stock.defjvp(_softplus_jvp(_softplus_by_stock))


def mish(x: jax.Array) -> jax.Array:
    """`x · tanh(log(1 + exp(x)))`, for x of real floating point."""
    return x * jnp.tanh(jax.nn.softplus(x)) if plain() else _mish(x)


def _mish_parts(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x, `exp(x)` and `(1 + exp(x))² − 1`, of x up to 20: from there on the hyperbolic tangent is 1, in float64 too."""
    bounded = jnp.minimum(x, 20)
    power = jnp.exp(bounded)
    return bounded, power, power * (power + 2)


@jax.custom_jvp
def _mish(x: jax.Array) -> jax.Array:
    _, _, square = _mish_parts(x)
    return x * (square / (square + 2))


@_mish.defjvp
def _mish_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (tangent,) = primals, tangents
    bounded, power, square = _mish_parts(x)
    share = 1 / (square + 2)
    return _mish(x), (square * share + bounded * (4 * power * (power + 1)) * (share * share)) * tangent


def silu(x: jax.Array) -> jax.Array:
    """`x · σ(x)`."""
    small = x.size < LARGE or jnp.iscomplexobj(x)
    return x * lax.logistic(x) if plain() or small else _silu(x)


@jax.custom_jvp
def _silu(x: jax.Array) -> jax.Array:
    return x * lax.logistic(x)


@_silu.defjvp
def _silu_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (tangent,) = primals, tangents
    # Another exponential instead of an array that is written by one loop and read by two.
    again = apart(x)
    sigmoid = lax.logistic(again)
    return _silu(x), sigmoid * (1 + again * (1 - sigmoid)) * tangent
