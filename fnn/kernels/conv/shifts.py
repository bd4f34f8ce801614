"""Convolution of few channels a group, by multiplying shifted inputs: one loop over the output, no products of matrices."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from fnn.kernels.conv.form import Form
from fnn.kernels.conv.windows import indices, interleaved, padded, phase_sizes, phase_taps, phased, strided, tap, taps

LOOPED = 16  # elements of a kernel, at most, that a program of the weight's derivative has each for itself


def output(form: Form, x: jax.Array, w: jax.Array) -> jax.Array:
    batch, outputs, groups = x.shape[0], w.shape[0], form.groups
    x = lax.optimization_barrier(padded(x, form.pads)) if any(map(any, form.pads)) else x
    total: jax.Array | None = None
    weights = w.reshape(groups, outputs // groups, w.shape[1], *form.kernel)
    for index in indices(form.kernel):
        part = tap(form, x, index).reshape(batch, groups, w.shape[1], 1, *form.out)
        for channel in range(w.shape[1]):
            weight = weights[(slice(None), slice(None), channel, *index)]
            term = part[:, :, channel] * weight.reshape(*weight.shape, *[1] * len(form.kernel))
            total = term if total is None else total + term
    assert total is not None
    return total.reshape(batch, outputs, *form.out)


def input(form: Form, w: jax.Array, y: jax.Array) -> jax.Array:
    """Each place of the input, modulo the stride, has elements of the kernel of its own: one loop over them each."""
    batch, outputs, groups = y.shape[0], w.shape[0], form.groups
    channels, axes = w.shape[1], len(form.kernel)
    weights = w.reshape(groups, outputs // groups, channels, *form.kernel)
    counts = phase_sizes(form)
    before = [(span - 1) // step for span, step in zip(form.span, form.stride, strict=True)]
    after = [max(0, count - out) for count, out in zip(counts, form.out, strict=True)]
    y = lax.optimization_barrier(padded(y, list(zip(before, after, strict=True))))
    y = y.reshape(batch, groups, outputs // groups, 1, *y.shape[2:])
    phases = []
    for taps_of_phase in phase_taps(form):
        total = None
        for index, behind in taps_of_phase:
            starts = [b - far for b, far in zip(before, behind, strict=True)]
            part = strided(y, starts, counts, (1,) * axes)
            for out in range(outputs // groups):
                weight = weights[(slice(None), out, slice(None), *index)]
                term = part[:, :, out] * weight.reshape(*weight.shape, *[1] * axes)
                total = term if total is None else total + term
        phases.append(jnp.zeros((batch, groups, channels, *counts), y.dtype) if total is None else total)
    return interleaved(form, jnp.stack([phase.reshape(batch, groups * channels, *counts) for phase in phases]))


def weight(form: Form, x: jax.Array, y: jax.Array) -> jax.Array:
    """For one element of the kernel after the other: products of matrices, or what is left of them with one channel a group."""
    batch, channels, outputs, groups = x.shape[0], x.shape[1], y.shape[1], form.groups
    y = y.reshape(batch, groups, outputs // groups, *form.out)
    reduce = _sums if channels == groups else _products

    def elements(form: Form, phases: jax.Array) -> jax.Array:
        parts = [part.reshape(batch, groups, channels // groups, *form.out) for part in taps(form, phases)]
        return jnp.stack([reduce(part, y) for part in parts], -1)

    phases = lax.optimization_barrier(phased(form, x))
    if len(form.kernel) != 2 or math.prod(form.kernel) <= LOOPED or set(form.stride) != {1}:
        return elements(form, phases).reshape(outputs, channels // groups, *form.kernel)
    # One row of the kernel after the other: a program for all its elements takes ten times as long to compile.
    row = form._replace(kernel=(1, form.kernel[1]), size=(form.out[0], form.size[1]), pads=((0, 0), form.pads[1]))

    def of_row(i: jax.Array) -> jax.Array:
        return elements(row, lax.dynamic_slice_in_dim(phases, i * form.dilation[0], form.out[0], axis=-2))

    rows = lax.map(of_row, jnp.arange(form.kernel[0]))
    return jnp.moveaxis(rows, 0, -2).reshape(outputs, channels // groups, *form.kernel)


def _products(part: jax.Array, y: jax.Array) -> jax.Array:
    """(groups, outputs, channels)"""
    part, y = (z.reshape(*z.shape[:3], -1) for z in (part, y))
    return lax.dot_general(y, part, (((3,), (3,)), ((0, 1), (0, 1)))).sum(0)


def _sums(part: jax.Array, y: jax.Array) -> jax.Array:
    """Slabs of the batch and of rows are added up in one loop, and what is left by a product with ones, which is a fast sum."""
    batch, rows = y.shape[0], y.shape[3]
    slabs = max(d for d in range(1, 9) if batch % d == 0)
    strips = max(d for d in range(1, 16 // slabs + 1) if rows % d == 0) if slabs < 8 else 1
    total: jax.Array | None = None
    # Not slices with steps: of an axis that is divided among devices, XLA takes wrong ones (jaxlib 0.10.2 and 0.12).
    part, y = (z.reshape(slabs, batch // slabs, *z.shape[1:]) for z in (part, y))
    for slab in range(slabs):
        for strip in range(strips):
            few = slice(strip * rows // strips, (strip + 1) * rows // strips)
            term = part[slab, :, :, :, few] * y[slab, :, :, :, few]
            total = term if total is None else total + term
    assert total is not None
    places = math.prod(total.shape[3:])
    sums = total.reshape(-1, places) @ jnp.ones((places,), y.dtype)
    return sums.reshape(total.shape[:3]).sum(0)
