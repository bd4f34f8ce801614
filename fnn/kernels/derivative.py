"""A fast way to compute a function, where that way has a gradient and no other derivative: all the others are a plain way's.

Such are the fused operations that JAX wraps in a `custom_vjp`: no forward mode, so no second derivative.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from fnn.kernels.sharding import varying_alike

Function = Callable[..., Any]


def faster(fast: Function, plain: Function, *operands: jax.Array, platform: str) -> jax.Array:
    """`fast(*operands)` on a platform, `plain(*operands)` on the others; the gradient too, and nothing else, is fast's there.

    The gradient computes `fast` again, from the operands: XLA merges that with the first time where both are in one program.

    Args:
        fast: has a vjp, and may have nothing else. It is never mapped over.
        plain: the same function, with all derivatives. Both return one array, and treat the axes before the last two as a
            batch: `vmap` adds one more of them, to all operands.
        operands: of floating point.
        platform: "cuda", for example. Both are traced on all platforms.
    """

    def tangent(primals: Any, tangents: Any) -> jax.Array:
        return _tangent.bind(*primals, *tangents, fast=fast, plain=plain, platform=platform)

    return _with_tangent(lambda *x: _choose(fast, plain, platform, *x)[0], tangent)(*varying_alike(*operands))


def _with_tangent(function: Function, tangent: Function) -> Function:
    value = jax.custom_jvp(function)
    value.defjvp(lambda primals, tangents: (value(*primals), tangent(primals, tangents)))
    return value


def _gradient(function: Function, *operands: jax.Array) -> tuple[jax.Array, ...]:
    """The cotangents of a function's operands, from these and the cotangent of the result."""
    *primals, cotangent = operands
    return jax.vjp(function, *primals)[1](cotangent)


def _choose(fast: Function, plain: Function, platform: str, *operands: jax.Array) -> list[jax.Array]:
    # The functions are for other shapes. The jaxprs are for the lowering, and for JAX, which looks for what needs devices.
    jaxprs = {"fast_jaxpr": jax.make_jaxpr(fast)(*operands), "plain_jaxpr": jax.make_jaxpr(plain)(*operands)}
    return _choice(platform).bind(*operands, fast=fast, plain=plain, **jaxprs)


@functools.cache
def _choice(platform: str) -> Primitive:
    """The operation that is lowered in one way for a platform, and in another for others.

    `lax.platform_dependent` is not it: lowering for several platforms, it lowers each way for all of them.
    """
    choice = Primitive(f"fnn_{platform}_or_other")
    choice.multiple_results = True

    def lower(which: str) -> Any:
        return mlir.lower_fun(lambda *operands, **of: jaxpr_as_fun(of[which])(*operands), multiple_results=True)

    def batch(operands: Any, axes: Any, *, fast: Function, plain: Function, **_: Any) -> Any:
        results = _choose(fast, plain, platform, *_with_batch(operands, axes))
        return results, [0] * len(results)

    choice.def_impl(lambda *operands, **of: jax.jit(functools.partial(choice.bind, **of))(*operands))
    choice.def_abstract_eval(lambda *_, plain_jaxpr, **__: plain_jaxpr.out_avals)
    batching.primitive_batchers[choice] = batch
    mlir.register_lowering(choice, lower("plain_jaxpr"))
    mlir.register_lowering(choice, lower("fast_jaxpr"), platform=platform)
    return choice


def _with_batch(operands: Any, axes: Any) -> list[jax.Array]:
    """Mapped operands with their mapped axis first, and the others with such an axis."""
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    return [
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    ]


# The tangent, of operands and their tangents. It is plain's, and is an operation of ours for the sake of its transpose.
_tangent = Primitive("fnn_tangent")


def _evaluate(*operands: jax.Array, plain: Function, **_: Any) -> jax.Array:
    half = len(operands) // 2
    return jax.jvp(plain, operands[:half], operands[half:])[1]


def _abstract(*operands: Any, plain: Function, **_: Any) -> Any:
    # Of a jaxpr, because that keeps how the result varies under shard_map; a shape and a dtype do not.
    return jax.make_jaxpr(plain)(*operands[: len(operands) // 2]).out_avals[0]


def _jvp(primals: Any, tangents: Any, **options: Any) -> tuple[jax.Array, jax.Array]:
    return jax.jvp(functools.partial(_evaluate, **options), tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))


def _transpose(cotangent: Any, *operands: Any, fast: Function, plain: Function, platform: str) -> list[Any]:
    half = len(operands) // 2
    ways = functools.partial(_gradient, fast), functools.partial(_gradient, plain)
    gradient = _with_tangent(lambda *x: _choose(*ways, platform, *x), lambda *x: list(jax.jvp(ways[1], *x)[1]))
    results = gradient(*operands[:half], ad.instantiate_zeros(cotangent))
    asked = map(ad.is_undefined_primal, operands[half:])
    return [None] * half + [x if wanted else None for x, wanted in zip(results, asked, strict=True)]


_tangent.def_impl(_evaluate)
_tangent.def_abstract_eval(_abstract)
ad.primitive_jvps[_tangent] = _jvp
ad.primitive_transposes[_tangent] = _transpose
batching.primitive_batchers[_tangent] = lambda operands, axes, **of: (_tangent.bind(*_with_batch(operands, axes), **of), 0)
mlir.register_lowering(_tangent, mlir.lower_fun(_evaluate, multiple_results=False))
