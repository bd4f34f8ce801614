"""A linear operation whose transpose is given, where the one that JAX derives is slow (a scatter for a gather, for example)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from fnn.kernels.sharding import varying_alike

Function = Callable[..., jax.Array]


def linear(forward: Function, transpose: Function, x: jax.Array, *kept: jax.Array) -> jax.Array:
    """`forward(x, *kept)`, with all derivatives in x.

    Args:
        forward: linear in its first argument.
        transpose: of a cotangent of the result and what is kept; linear too, and with `forward` as its transpose.
        x: of floating point.
        kept: what has no derivative, such as indices.
    """
    return _linear.bind(*varying_alike(x, *kept), forward=forward, transpose=transpose)


def _evaluate(x: jax.Array, *kept: jax.Array, forward: Function, transpose: Function) -> jax.Array:
    return forward(x, *kept)


def _jvp(primals: Any, tangents: Any, **functions: Any) -> tuple[Any, Any]:
    (_, *kept), tangent = primals, ad.instantiate_zeros(tangents[0])
    return _linear.bind(*primals, **functions), _linear.bind(tangent, *kept, **functions)


def _transpose(cotangent: Any, x: Any, *kept: Any, forward: Function, transpose: Function) -> list[Any]:
    if type(cotangent) is ad.Zero:
        return [ad.Zero(x.aval), *[None] * len(kept)]
    return [_linear.bind(cotangent, *kept, forward=transpose, transpose=forward), *[None] * len(kept)]


def _batch(operands: Any, axes: Any, *, forward: Function, transpose: Function) -> tuple[jax.Array, int]:
    x, *kept = operands
    if axes[0] is None:
        size = next(k.shape[axis] for k, axis in zip(kept, axes[1:], strict=True) if axis is not None)
        x = jnp.broadcast_to(x, (size, *x.shape))
    mapped = (axes[0] or 0, *axes[1:])
    functions = {"forward": jax.vmap(forward, (0, *axes[1:])), "transpose": jax.vmap(transpose, (0, *axes[1:]))}
    return _linear.bind(jnp.moveaxis(x, mapped[0], 0), *kept, **functions), 0


_linear = Primitive("fnn_linear")
_linear.def_impl(jax.jit(_evaluate, static_argnames=("forward", "transpose")))
# Of a jaxpr, because that keeps how the result varies under shard_map; a shape and a dtype do not.
_linear.def_abstract_eval(lambda *operands, **functions: jax.make_jaxpr(functions["forward"])(*operands).out_avals[0])
ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _batch
mlir.register_lowering(_linear, mlir.lower_fun(_evaluate, multiple_results=False))
