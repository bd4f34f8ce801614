"""Slices of an input that the elements of a kernel meet."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from fnn.kernels.conv.form import Form


def indices(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, sizes))


def padded(x: jax.Array, pads: Sequence[tuple[int, int]]) -> jax.Array:
    """Zeros around the last axes; negative numbers cut off."""
    whole = [(0, 0)] * (x.ndim - len(pads)) + list(pads)
    return lax.pad(x, jnp.zeros((), x.dtype), [(*pad, 0) for pad in whole]) if any(map(any, pads)) else x


def strided(x: jax.Array, starts: Sequence[int], counts: Sequence[int], strides: Sequence[int]) -> jax.Array:
    """So many places of the last axes, from a start on, so far apart."""
    rest = x.ndim - len(starts)
    limits = [start + (count - 1) * stride + 1 for start, count, stride in zip(starts, counts, strides, strict=True)]
    return lax.slice(x, [0] * rest + list(starts), [*x.shape[:rest], *limits], [1] * rest + list(strides))


def tap(form: Form, x: jax.Array, index: Sequence[int]) -> jax.Array:
    """What one element of the kernel meets, of an input with its padding: (..., *out)."""
    return strided(x, [i * d for i, d in zip(index, form.dilation, strict=True)], form.out, form.stride)


def phased(form: Form, x: jax.Array) -> jax.Array:
    """The places of an input, with padding, by where they are modulo the stride: (*stride, N, C, *places)."""
    axes = len(form.kernel)
    places = [-(-(s * (out - 1) + span) // s) for out, span, s in zip(form.out, form.span, form.stride, strict=True)]
    parts = zip(form.pads, places, form.stride, form.size, strict=True)
    x = padded(x, [(low, place * s - size - low) for (low, _), place, s, size in parts])
    pairs = [size for pair in zip(places, form.stride, strict=True) for size in pair]
    return x.reshape(*x.shape[:2], *pairs).transpose(
        [*(3 + 2 * i for i in range(axes)), 0, 1, *(2 + 2 * i for i in range(axes))]
    )


def taps(form: Form, phases: jax.Array) -> list[jax.Array]:
    """What each element of the kernel meets: slices without steps of what is `phased`, (..., *out)."""
    met = []
    for index in indices(form.kernel):
        ahead = [k * d for k, d in zip(index, form.dilation, strict=True)]
        phase = phases[tuple(a % s for a, s in zip(ahead, form.stride, strict=True))]
        starts = [a // s for a, s in zip(ahead, form.stride, strict=True)]
        met.append(strided(phase, starts, form.out, (1,) * len(index)))
    return met


def phase_sizes(form: Form) -> list[int]:
    """How many places of the padded input a phase has, that is those alike modulo the stride."""
    parts = zip(form.size, form.pads, form.stride, strict=True)
    return [-(-(size + max(low, 0)) // step) for size, (low, _), step in parts]


def phase_taps(form: Form) -> Iterator[list[tuple[tuple[int, ...], list[int]]]]:
    """For each phase of the padded input, the elements of the kernel that meet it, and how far behind the output is.

    Place stride · u + phase meets, by element k, the output at u − (k · dilation − phase) / stride.
    """
    for phase in indices(form.stride):
        met = []
        for index in indices(form.kernel):
            ahead = [k * d - r for k, d, r in zip(index, form.dilation, phase, strict=True)]
            if not any(a % step for a, step in zip(ahead, form.stride, strict=True)):
                met.append((index, [a // step for a, step in zip(ahead, form.stride, strict=True)]))
        yield met


def interleaved(form: Form, phases: jax.Array) -> jax.Array:
    """An input (N, C, *size), without padding, of its places modulo the stride, with padding: (prod(stride), N, C, *counts)."""
    _, batch, channels, *counts = phases.shape
    axes = len(counts)
    x = phases[0]
    if math.prod(form.stride) > 1:
        split = phases.reshape(*form.stride, batch, channels, *counts)
        order = [axes, axes + 1, *itertools.chain.from_iterable((axes + 2 + i, i) for i in range(axes))]
        counts = [count * step for count, step in zip(counts, form.stride, strict=True)]
        x = split.transpose(order).reshape(batch, channels, *counts)
    return padded(x, [(-low, low + size - have) for (low, _), size, have in zip(form.pads, form.size, counts, strict=True)])


def reverse(form: Form) -> Form:
    """The convolution that gives x of y, for a stride of 1; its weight is `reversed_weight`."""
    parts = zip(form.span, form.pads, form.size, form.out, strict=True)
    pads = tuple((span - 1 - low, size - out + low) for span, (low, _), size, out in parts)
    return form._replace(size=form.out, pads=pads)


def reversed_weight(form: Form, w: jax.Array) -> jax.Array:
    outputs, channels, *kernel = w.shape
    w = w.reshape(form.groups, outputs // form.groups, channels, *kernel).swapaxes(1, 2)
    return lax.rev(w, range(3, w.ndim)).reshape(form.groups * channels, outputs // form.groups, *kernel)
