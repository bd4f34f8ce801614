"""Convolution, as one trilinear form: T(x, w, y) = ⟨conv(x, w), y⟩.

It has three contractions: y of x and w is the convolution, x of w and y its derivative in the input, which is the transposed
convolution, and w of x and y its derivative in the weight. Each is bilinear, and the derivatives of each are the other two:
so three operations are plain and transposed convolutions with all their derivatives, of every order and mode.

On the CPU each is computed as `rule` says. Elsewhere, and where the rule says nothing, they are the operations of `stock`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from fnn.kernels import plain
from fnn.kernels.conv import stock
from fnn.kernels.conv.form import Extent, Form
from fnn.kernels.conv.rule import choose
from fnn.kernels.conv.windows import padded
from fnn.kernels.sharding import is_divided, varying_alike

__all__ = ["Form", "convolution", "transposed_convolution"]

_OPERANDS = {"y": "xw", "x": "wy", "w": "xy"}  # what each is computed from


def convolution(form: Form, x: jax.Array, w: jax.Array, dtype: Any) -> jax.Array:
    """y (N, O, *out) of x (N, C, *size) and w (O, C / groups, *kernel), in a dtype that may be wider than theirs."""
    form, excess = _within_reach(form)
    return _contract("y", form, padded(x, [(more, 0) for more in excess]), w, dtype)


def transposed_convolution(form: Form, w: jax.Array, y: jax.Array, dtype: Any) -> jax.Array:
    """x of w and y: what `convolution` takes, from what it gives."""
    form, excess = _within_reach(form)
    return padded(_contract("x", form, w, y, dtype), [(-more, 0) for more in excess])


def _within_reach(form: Form) -> tuple[Form, list[int]]:
    """A form of which no place before the input meets only zeros, and how many such places there were.

    The derivative would cut them off in front and pad behind, for which XLA:CPU reads other memory (jaxlib 0.10.2).
    """
    excess = [max(0, low - (span - 1)) for (low, _), span in zip(form.pads, form.span, strict=True)]
    pads = [(low - more, high) for (low, high), more in zip(form.pads, excess, strict=True)]
    size = [size + more for size, more in zip(form.size, excess, strict=True)]
    return form._replace(size=tuple(size), pads=tuple(pads)), excess


def _contract(which: str, form: Form, a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    extent = _extent(which, form, a, b)
    # The derivative of a transposed convolution by stock operations is not what JAX derives, which is 10 times as slow; and
    # what JAX derives where axes are a part of types does not know how its sums are to be divided.
    ours = jnp.issubdtype(a.dtype, jnp.floating) and (which == "x" or is_divided(a, b))
    if plain() or not (ours or any(choose(each, form, extent, a.dtype) for each in _OPERANDS)):
        return stock.OPERATIONS[which](form, a, b, dtype)
    return _bind(which, form, a, b, dtype)


def _extent(which: str, form: Form, a: Any, b: Any) -> Extent:
    shapes = dict(zip(_OPERANDS[which], (a.shape, b.shape), strict=True))
    batch = (shapes.get("x") or shapes["y"])[0]
    channels = shapes["x"][1] if "x" in shapes else shapes["w"][1] * form.groups
    return Extent(batch, channels, shapes["w"][0] if "w" in shapes else shapes["y"][1])


def _bind(which: str, form: Form, a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    return _PRIMITIVES[which].bind(*varying_alike(a, b), form=form, dtype=jnp.dtype(dtype))


def _on_cpu(which: str, a: jax.Array, b: jax.Array, *, form: Form, dtype: Any) -> jax.Array:
    algorithm = choose(which, form, _extent(which, form, a, b), a.dtype)
    if algorithm is None or is_divided(a, b):
        return stock.OPERATIONS[which](form, a, b, dtype)
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return algorithm(form, a.astype(wide), b.astype(wide)).astype(dtype)


@functools.lru_cache(4096)
def _abstract(which: str, a: Any, b: Any, form: Form, dtype: Any) -> Any:
    # Of a jaxpr, because that keeps how the result varies under shard_map; a shape and a dtype do not.
    return jax.make_jaxpr(functools.partial(stock.OPERATIONS[which], form, dtype=dtype))(a, b).out_avals[0]


@functools.lru_cache(4096)
def _compiled(which: str, form: Form, dtype: Any) -> Any:
    return jax.jit(functools.partial(_PRIMITIVES[which].bind, form=form, dtype=dtype))


def _transpose(which: str, operand: int) -> Any:
    """The cotangent of an operand: the contraction that gives it, of the cotangent of the result and the other operand."""
    wanted, other = _OPERANDS[which][operand], _OPERANDS[which][1 - operand]

    def rule(cotangent: jax.Array, a: Any, b: Any, *, form: Form, dtype: Any) -> jax.Array:
        asked, kept = (a, b) if operand == 0 else (b, a)
        # Wider than its operands is a result that is rounded next, so its cotangent has no more digits than they.
        operands = {which: cotangent.astype(kept.dtype), other: kept}
        first, second = (operands[name] for name in _OPERANDS[wanted])
        return _bind(wanted, form, first, second, asked.aval.dtype)

    return rule


def _batch(which: str, operands: Any, axes: Any, *, form: Form, dtype: Any) -> tuple[jax.Array, int]:
    """`vmap`: an axis in x and y is more batch, in w and y more outputs, in x and w more channels, in all more groups."""
    names, groups = _OPERANDS[which], form.groups
    mapped = {which, *(name for name, axis in zip(names, axes, strict=True) if axis is not None)}
    place = {
        "xy": {"x": (0, 1), "y": (0, 1)},
        "wy": {"w": (0, groups), "y": (1, groups)},
        "wx": {"x": (1, groups), "w": (1, 1)},
        "wxy": {"x": (1, 1), "w": (0, 1), "y": (1, 1)},
    }["".join(sorted(mapped))]
    size = next(z.shape[axis] for z, axis in zip(operands, axes, strict=True) if axis is not None)
    if len(mapped) == 3:
        form = form._replace(groups=groups * size)
    first, second = (
        z if axis is None else _fold(jnp.moveaxis(z, axis, 0), *place[name])
        for name, z, axis in zip(names, operands, axes, strict=True)
    )
    return _unfold(_bind(which, form, first, second, dtype), size, *place[which]), 0


def _fold(z: jax.Array, axis: int, groups: int) -> jax.Array:
    """The first axis becomes a part of another, within the groups there."""
    size, *shape = z.shape
    z = z.reshape(size, *shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    shape[axis] *= size
    return jnp.moveaxis(z, 0, axis + 1).reshape(shape)


def _unfold(z: jax.Array, size: int, axis: int, groups: int) -> jax.Array:
    shape = list(z.shape)
    shape[axis] //= size
    z = z.reshape(*shape[:axis], groups, size, shape[axis] // groups, *shape[axis + 1 :])
    return jnp.moveaxis(z, axis + 1, 0).reshape(size, *shape)


def _primitive(which: str) -> Primitive:
    primitive = Primitive(f"fnn_convolution_{which}")
    primitive.def_impl(lambda a, b, **static: _compiled(which, **static)(a, b))
    primitive.def_abstract_eval(functools.partial(_abstract, which))
    ad.defbilinear(primitive, _transpose(which, 0), _transpose(which, 1))
    batching.primitive_batchers[primitive] = functools.partial(_batch, which)
    # Not inline: a form that a model has many times is lowered once.
    lowerings = functools.partial(_stock, which), functools.partial(_on_cpu, which)
    for platform, way in zip((None, "cpu"), lowerings, strict=True):
        mlir.register_lowering(primitive, mlir.lower_fun(way, multiple_results=False), platform=platform, inline=False)
    return primitive


def _stock(which: str, a: jax.Array, b: jax.Array, *, form: Form, dtype: Any) -> jax.Array:
    return stock.OPERATIONS[which](form, a, b, dtype)


_PRIMITIVES = {which: _primitive(which) for which in _OPERANDS}
