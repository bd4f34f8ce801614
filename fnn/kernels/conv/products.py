"""Dense convolution as products of matrices: of pixels, for a kernel of one element, or of patches."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from fnn.kernels.conv.form import Form
from fnn.kernels.conv.windows import padded, phased, strided, taps


def output(form: Form, x: jax.Array, w: jax.Array) -> jax.Array:
    """A kernel of one element."""
    pixels = _pixels(form, x)
    return _times(w.reshape(w.shape[:2]), pixels).reshape(x.shape[0], -1, *form.out)


def input(form: Form, w: jax.Array, y: jax.Array) -> jax.Array:
    x = _times(w.reshape(w.shape[:2]).T, y.reshape(*y.shape[:2], -1)).reshape(y.shape[0], -1, *form.out)
    parts = zip(form.size, form.pads, form.out, form.stride, strict=True)
    spread = [(-low, size - 1 - (out - 1) * step + low, step - 1) for size, (low, _), out, step in parts]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *spread])


def weight(form: Form, x: jax.Array, y: jax.Array) -> jax.Array:
    pixels, y = _pixels(form, x), y.reshape(*y.shape[:2], -1)
    _, outputs, places = y.shape
    if places >= 2048 or outputs * x.shape[1] <= 8192:
        w = lax.dot_general(y, pixels, (((2,), (2,)), ((0,), (0,)))).sum(0)
    else:
        w = _gathered(y) @ _gathered(pixels).T
    return w.reshape(outputs, -1, *form.kernel)


def _pixels(form: Form, x: jax.Array) -> jax.Array:
    x = strided(padded(x, form.pads), [0] * len(form.out), form.out, form.stride)
    return x.reshape(*x.shape[:2], -1)


def _gathered(x: jax.Array) -> jax.Array:
    """(C, N · places)"""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)


def _times(w: jax.Array, x: jax.Array) -> jax.Array:
    """(N, O, places) of (O, C) and (N, C, places), by one product for each sample where that is large enough."""
    batch, _, places = x.shape
    if batch == 1 or places >= 256:
        return jnp.broadcast_to(w, (batch, *w.shape)) @ x
    return (w @ _gathered(x)).reshape(-1, batch, places).swapaxes(0, 1)


def patches_output(form: Form, x: jax.Array, w: jax.Array) -> jax.Array:
    """A kernel of several elements."""
    groups, outputs = form.groups, w.shape[0]
    w = jnp.moveaxis(w, 1, -1).reshape(groups, outputs // groups, -1)
    return (w @ _patches(form, x)).reshape(outputs, x.shape[0], *form.out).swapaxes(0, 1)


def patches_weight(form: Form, x: jax.Array, y: jax.Array) -> jax.Array:
    groups, outputs = form.groups, y.shape[1]
    last = jnp.moveaxis(y.reshape(y.shape[0], groups, outputs // groups, -1), (1, 2), (0, 3))
    w = _patches(form, x) @ last.reshape(groups, -1, outputs // groups)
    w = w.reshape(groups, *form.kernel, x.shape[1] // groups, outputs // groups)
    return jnp.moveaxis(w, (-1, -2), (1, 2)).reshape(outputs, -1, *form.kernel)


def _patches(form: Form, x: jax.Array) -> jax.Array:
    """(groups, prod(kernel) · C / groups, N · prod(out))"""
    groups, channels = form.groups, x.shape[1]
    phases = phased(form, x, channels_first=True)
    if groups == 1 and form.kernel == form.stride and set(form.dilation) == {1}:
        return phases.reshape(1, math.prod(form.kernel) * channels, -1)
    parts = [part.reshape(groups, channels // groups, -1) for part in taps(form, lax.optimization_barrier(phases))]
    return jnp.concatenate(parts, 1)


def whole_output(form: Form, x: jax.Array, w: jax.Array) -> jax.Array:
    """A kernel as large as the input."""
    return (x.reshape(x.shape[0], -1) @ w.reshape(w.shape[0], -1).T).reshape(x.shape[0], -1, *form.out)


def whole_input(form: Form, w: jax.Array, y: jax.Array) -> jax.Array:
    return (y.reshape(y.shape[:2]) @ w.reshape(w.shape[0], -1)).reshape(y.shape[0], -1, *form.size)


def whole_weight(form: Form, x: jax.Array, y: jax.Array) -> jax.Array:
    return (y.reshape(y.shape[:2]).T @ x.reshape(x.shape[0], -1)).reshape(y.shape[1], -1, *form.kernel)
