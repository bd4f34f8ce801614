"""The derivative in the input of a strided convolution, which is the transposed convolution, as one of stride 1.

The places of the input that are alike modulo the stride are more channels: one convolution gives them all, in place of one
over an input with as many zeros as the stride is long.

References:
    Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network,
    https://arxiv.org/abs/1609.05158
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.kernels.conv.form import Form
from fnn.kernels.conv.windows import interleaved, padded, phased


def reduced(form: Form) -> Form:
    """The convolution of stride 1 over y whose outputs are the phases."""
    kernel = [-(-k // s) for k, s in zip(form.kernel, form.stride, strict=True)]
    counts = [-(-(size + low) // s) for size, (low, _), s in zip(form.size, form.pads, form.stride, strict=True)]
    pads = [(k - 1, count - out) for k, count, out in zip(kernel, counts, form.out, strict=True)]
    return Form(form.out, tuple(kernel), (1,) * len(kernel), tuple(pads), (1,) * len(kernel), form.groups)


def input(form: Form, w: jax.Array, y: jax.Array, *, inner: Any) -> jax.Array:
    """`inner` computes the convolution that `reduced` says."""
    small, groups, axes = reduced(form), form.groups, len(form.kernel)
    outputs, channels = w.shape[:2]
    missing = [k * s - kernel for k, s, kernel in zip(small.kernel, form.stride, form.kernel, strict=True)]
    w = padded(w, [(0, more) for more in missing])
    pairs = [size for pair in zip(small.kernel, form.stride, strict=True) for size in pair]
    w = w.reshape(groups, outputs // groups, channels, *pairs)
    taps, steps = [3 + 2 * i for i in range(axes)], [4 + 2 * i for i in range(axes)]
    w = lax.rev(w, taps).transpose(0, *steps, 2, 1, *taps)
    count = math.prod(form.stride)
    phases = inner(small, y, w.reshape(groups * count * channels, outputs // groups, *small.kernel))
    phases = phases.reshape(y.shape[0], groups, count, channels, *phases.shape[2:])
    phases = jnp.moveaxis(phases, 2, 0)
    return interleaved(form, phases.reshape(count, y.shape[0], groups * channels, *phases.shape[4:]))


def output(form: Form, x: jax.Array, w: jax.Array, *, inner: Any) -> jax.Array:
    """A strided convolution as one of stride 1: the places of the input that are alike modulo the stride are more channels."""
    axes, kernel = len(form.kernel), [-(-k // s) for k, s in zip(form.kernel, form.stride, strict=True)]
    places = [out + k - 1 for out, k in zip(form.out, kernel, strict=True)]
    small = Form(tuple(places), tuple(kernel), (1,) * axes, ((0, 0),) * axes, (1,) * axes, form.groups)
    # A weight is an input whose every place a kernel of its own size meets once.
    whole = Form(form.kernel, form.kernel, form.stride, ((0, 0),) * axes, (1,) * axes, 1)

    def gathered(form: Form, z: jax.Array, sizes: list[int]) -> jax.Array:
        return jnp.moveaxis(phased(form, z), range(axes), range(2, axes + 2)).reshape(z.shape[0], -1, *sizes)

    return inner(small, lax.optimization_barrier(gathered(form, x, places)), gathered(whole, w, kernel))
