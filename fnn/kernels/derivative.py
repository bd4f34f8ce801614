"""A fast way to compute a function, where that way has a gradient and no other derivative: all the others are a plain way's.

Such are the fused operations that JAX wraps in a `custom_vjp`: no forward mode, so no second derivative.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from fnn.kernels.sharding import varying_alike

Function = Callable[..., Any]


class _Ways(NamedTuple):
    """Of computing a function: on the platform, and in general; `batched` as for `faster`."""

    fast: Function
    plain: Function
    platform: str
    batched: bool


def faster(fast: Function, plain: Function, *operands: jax.Array, platform: str, batched: bool) -> Any:
    """`fast(*operands)` on a platform, `plain(*operands)` on the others; the gradient too, and nothing else, is fast's there.

    The gradient computes `fast` again, from the operands: XLA merges that with the first time where both are in one program.

    Args:
        fast: has a vjp, and may have nothing else. It is never mapped over.
        plain: the same function, with all derivatives. Both return the same tree of arrays.
        operands: of floating point.
        platform: "cuda", for example. Both are traced on all platforms.
        batched: whether both treat the axes before the last two as a batch: `vmap` adds one more of them, to all operands.
            Otherwise what is mapped over is plain.
    """
    ways = _Ways(fast, plain, platform, batched)
    return _with_tangent(functools.partial(_choose, ways), functools.partial(_tangent_of, ways))(*varying_alike(*operands))


def _with_tangent(function: Function, tangent: Function) -> Function:
    """A function whose tangent is a list, whatever tree the result is."""
    value = jax.custom_jvp(function)

    def both(primals: Any, tangents: Any) -> Any:
        result = value(*primals)
        return result, jax.tree.unflatten(jax.tree.structure(result), tangent(primals, tangents))

    value.defjvp(both)
    return value


def _tangent_of(ways: _Ways, primals: Any, tangents: Any) -> list[jax.Array]:
    return _tangent.bind(*primals, *tangents, ways=ways)


def _gradient(function: Function, count: int, *operands: jax.Array) -> tuple[jax.Array, ...]:
    """The cotangents of a function's operands, from that many of these and the cotangents of the results."""
    result, transpose = jax.vjp(function, *operands[:count])
    return transpose(jax.tree.unflatten(jax.tree.structure(result), operands[count:]))


def _choose(ways: _Ways, *operands: jax.Array) -> Any:
    # The functions are for other shapes. The jaxprs are for the lowering, and for JAX, which looks for what needs devices.
    plain_jaxpr, result = jax.make_jaxpr(ways.plain, return_shape=True)(*operands)
    jaxprs = {"fast_jaxpr": jax.make_jaxpr(ways.fast)(*operands), "plain_jaxpr": plain_jaxpr}
    return jax.tree.unflatten(jax.tree.structure(result), _choice(ways.platform).bind(*operands, ways=ways, **jaxprs))


@functools.cache
def _choice(platform: str) -> Primitive:
    """The operation that is lowered in one way for a platform, and in another for others.

    `lax.platform_dependent` is not it: lowering for several platforms, it lowers each way for all of them.
    """
    choice = Primitive(f"fnn_{platform}_or_other")
    choice.multiple_results = True

    def lower(which: str) -> Any:
        return mlir.lower_fun(lambda *operands, **of: jaxpr_as_fun(of[which])(*operands), multiple_results=True)

    def batch(operands: Any, axes: Any, *, ways: _Ways, **_: Any) -> Any:
        return _batch(functools.partial(_choose, ways), ways.plain, ways.batched, operands, axes)

    choice.def_impl(lambda *operands, **of: jax.jit(functools.partial(choice.bind, **of))(*operands))
    choice.def_abstract_eval(lambda *_, plain_jaxpr, **__: plain_jaxpr.out_avals)
    batching.primitive_batchers[choice] = batch
    mlir.register_lowering(choice, lower("plain_jaxpr"))
    mlir.register_lowering(choice, lower("fast_jaxpr"), platform=platform)
    return choice


def _batch(function: Function, plain: Function, batched: bool, operands: Any, axes: Any) -> Any:
    """The results of mapping over operands, and their mapped axes."""
    if batched:
        # Mapped operands with their mapped axis first, and the others with such an axis.
        size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
        operands = [
            jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(operands, axes, strict=True)
        ]
        results = jax.tree.leaves(function(*operands))
    else:
        results = jax.tree.leaves(jax.vmap(plain, tuple(axes))(*operands))
    return results, [0] * len(results)


# The tangent, of operands and their tangents. It is plain's, and is an operation of ours for the sake of its transpose.
_tangent = Primitive("fnn_tangent")
_tangent.multiple_results = True


def _evaluate(*operands: jax.Array, ways: _Ways) -> list[jax.Array]:
    half = len(operands) // 2
    return jax.tree.leaves(jax.jvp(ways.plain, operands[:half], operands[half:])[1])


def _abstract(*operands: Any, ways: _Ways) -> Any:
    # Of a jaxpr, because that keeps how the result varies under shard_map; a shape and a dtype do not.
    return jax.make_jaxpr(ways.plain)(*operands[: len(operands) // 2]).out_avals


def _jvp(primals: Any, tangents: Any, *, ways: _Ways) -> Any:
    return jax.jvp(functools.partial(_evaluate, ways=ways), tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))


def _transpose(cotangents: Any, *operands: Any, ways: _Ways) -> list[Any]:
    half = len(operands) // 2
    fast, plain = (functools.partial(_gradient, function, half) for function in (ways.fast, ways.plain))
    gradients = ways._replace(fast=fast, plain=plain)
    gradient = _with_tangent(functools.partial(_choose, gradients), lambda *x: jax.tree.leaves(jax.jvp(plain, *x)[1]))
    results = gradient(*operands[:half], *map(ad.instantiate_zeros, cotangents))
    asked = map(ad.is_undefined_primal, operands[half:])
    return [None] * half + [x if wanted else None for x, wanted in zip(results, asked, strict=True)]


def _batch_tangent(operands: Any, axes: Any, *, ways: _Ways) -> Any:
    function, plain = (functools.partial(f, ways=ways) for f in (_tangent.bind, _evaluate))
    return _batch(function, plain, ways.batched, operands, axes)


_tangent.def_impl(_evaluate)
_tangent.def_abstract_eval(_abstract)
ad.primitive_jvps[_tangent] = _jvp
ad.primitive_transposes[_tangent] = _transpose
batching.primitive_batchers[_tangent] = _batch_tangent
mlir.register_lowering(_tangent, mlir.lower_fun(_evaluate, multiple_results=True))
