"""Convolution as products of matrices: of pixels for a kernel of one element, of patches or of columns for a larger one.

A patch is what the kernel meets at one place. A column is what one place gives to the input: the transpose of a patch.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from fnn.kernels.conv.form import Form
from fnn.kernels.conv.windows import (
    interleaved,
    padded,
    phase_sizes,
    phase_taps,
    phased,
    reverse,
    reversed_weight,
    strided,
    taps,
)


def output(form: Form, x: jax.Array, w: jax.Array) -> jax.Array:
    patches = _patches(form, x)
    times = _by_sample if x.shape[0] == 1 or form.groups > 1 or _large(patches) else _by_place
    return times(_rows(form, w), patches).reshape(x.shape[0], w.shape[0], *form.out)


def weight(form: Form, x: jax.Array, y: jax.Array) -> jax.Array:
    groups, outputs, channels = form.groups, y.shape[1], x.shape[1]
    patches, y = _patches(form, x), y.reshape(y.shape[0], groups, outputs // groups, -1)
    if y.shape[-1] >= 2048 or patches.shape[2] * y.shape[2] <= 8192:
        w = lax.dot_general(y, patches, (((3,), (3,)), ((0, 1), (0, 1)))).sum(0)
    else:
        w = _gathered(y) @ _gathered(patches).swapaxes(1, 2)
    w = w.reshape(groups, outputs // groups, *form.kernel, channels // groups)
    return jnp.moveaxis(w, -1, 2).reshape(outputs, channels // groups, *form.kernel)


def input(form: Form, w: jax.Array, y: jax.Array) -> jax.Array:
    """Each place of the input, modulo the stride, is the sum of elements of columns of its own."""
    batch, groups, channels = y.shape[0], form.groups, w.shape[1]
    y = y.reshape(batch, groups, y.shape[1] // groups, -1)
    times = _at_once if groups > 1 else _by_sample if _large(y) else _by_place
    columns = times(_rows(form, w).swapaxes(1, 2), y)
    if math.prod(form.kernel) > 1:
        columns = lax.optimization_barrier(columns)
    columns = columns.reshape(batch, groups, *form.kernel, channels, *form.out)
    counts, phases = phase_sizes(form), []
    for taps_of_phase in phase_taps(form):
        total = jnp.zeros((batch, groups, channels, *counts), y.dtype)
        for index, starts in taps_of_phase:
            pads = [(start, count - out - start) for start, count, out in zip(starts, counts, form.out, strict=True)]
            total = total + padded(columns[(slice(None), slice(None), *index)], pads)
        phases.append(total.reshape(batch, groups * channels, *counts))
    return interleaved(form, jnp.stack(phases))


def reversed_output(form: Form, x: jax.Array, w: jax.Array) -> jax.Array:
    """y of x and w, for a stride of 1, as the input of the reverse convolution."""
    return input(reverse(form), reversed_weight(form, w), x)


def _rows(form: Form, w: jax.Array) -> jax.Array:
    """(groups, O / groups, prod(kernel) · C / groups)"""
    w = w.reshape(form.groups, w.shape[0] // form.groups, *w.shape[1:])
    return jnp.moveaxis(w, 2, -1).reshape(*w.shape[:2], -1)


def _patches(form: Form, x: jax.Array) -> jax.Array:
    """(N, groups, prod(kernel) · C / groups, prod(out))"""
    shape = x.shape[0], form.groups, x.shape[1] // form.groups, -1
    if math.prod(form.kernel) == 1:
        return strided(padded(x, form.pads), [0] * len(form.out), form.out, form.stride).reshape(shape)
    phases = phased(form, x)
    if form.kernel == form.stride and set(form.dilation) == {1}:
        patches = jnp.moveaxis(phases.reshape(-1, *shape[:3], math.prod(form.out)), 0, 2)
        return patches.reshape(*shape[:2], -1, math.prod(form.out))
    return jnp.concatenate([part.reshape(shape) for part in taps(form, lax.optimization_barrier(phases))], 2)


def _gathered(x: jax.Array) -> jax.Array:
    """(groups, C, N · places)"""
    return jnp.moveaxis(x, 0, 2).reshape(*x.shape[1:3], -1)


def _large(x: jax.Array) -> bool:
    """Whether (N, groups, C, places) have enough places for a product for each sample.

    1024-256 N4 14²: of all places at once 1.8, 1.3 → 1.1, 1.2. One sample of 512-2048 7²: 1.0, 3.7 → 1.0, 0.8
    """
    return x.shape[-1] >= 256


def _by_sample(w: jax.Array, x: jax.Array) -> jax.Array:
    """(N, groups, O, places) of (groups, O, C) and (N, groups, C, places)."""
    return jnp.broadcast_to(w, (x.shape[0], *w.shape)) @ x


def _at_once(w: jax.Array, x: jax.Array) -> jax.Array:
    y = w @ _gathered(x)
    return jnp.moveaxis(y.reshape(*w.shape[:2], x.shape[0], -1), 2, 0)


def _by_place(w: jax.Array, x: jax.Array) -> jax.Array:
    last = jnp.moveaxis(x, 0, 1).swapaxes(2, 3)  # (groups, N, places, C)
    y = last.reshape(w.shape[0], -1, w.shape[2]) @ w.swapaxes(1, 2)
    return jnp.moveaxis(y.reshape(*last.shape[:3], -1).swapaxes(2, 3), 1, 0)


def whole_output(form: Form, x: jax.Array, w: jax.Array) -> jax.Array:
    """A kernel as large as the input."""
    return (x.reshape(x.shape[0], -1) @ w.reshape(w.shape[0], -1).T).reshape(x.shape[0], -1, *form.out)


def whole_input(form: Form, w: jax.Array, y: jax.Array) -> jax.Array:
    return (y.reshape(y.shape[:2]) @ w.reshape(w.shape[0], -1)).reshape(y.shape[0], -1, *form.size)


def whole_weight(form: Form, x: jax.Array, y: jax.Array) -> jax.Array:
    return (y.reshape(y.shape[:2]).T @ x.reshape(x.shape[0], -1)).reshape(y.shape[1], -1, *form.kernel)
