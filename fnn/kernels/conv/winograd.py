"""Dense convolution of stride 1 by minimal filtering, along all axes but the last.

F(m, r) gives m outputs of a kernel of r from m + r − 1 products in place of m · r; here each product is one of matrices, of
the patches along the last axis. The transforms cost accuracy: for F(4, 3), 3 to 15 times the rounding error of a plain sum.

References:
    Winograd, Arithmetic Complexity of Computations, SIAM, 1980
    Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, https://arxiv.org/abs/1509.09308
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.kernels.conv.chunks import Algorithm
from fnn.kernels.conv.form import Form
from fnn.kernels.conv.windows import padded, strided

Tiles = tuple[int, ...]  # m of F(m, r) along each axis but the last

_POINTS = [Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2")]


@functools.cache
def _transforms(m: int, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A (m, n), G (n, r) and B (n, n) of `out = A ((G kernel) · (B input))`, for n = m + r − 1.

    By Toom and Cook: the product of two polynomials from their values at n − 1 points and at infinity, transposed.
    """
    points = _POINTS[: m + r - 2]
    others = [[q for q in points if q != p] for p in points]
    scales = [math.prod([p - q for q in rest], start=Fraction(1)) for p, rest in zip(points, others, strict=True)]
    a = [[p**i for p in points] + [Fraction(i == m - 1)] for i in range(m)]
    g = [[p**j / scale for j in range(r)] for p, scale in zip(points, scales, strict=True)]
    b = [[*_product(rest), Fraction(0)] for rest in others] + [_product(points)]
    last = [Fraction(j == r - 1) for j in range(r)]
    return np.array(a, float), np.array([*g, last], float), np.array(b, float)


def _product(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of Π (x − root), the constant first."""
    out = [Fraction(1)]
    for root in roots:
        out = [high - root * low for high, low in zip([Fraction(0), *out], [*out, Fraction(0)], strict=True)]
    return out


def _combined(weights: np.ndarray, parts: Sequence[jax.Array]) -> jax.Array:
    total: jax.Array | None = None
    for weight, part in zip(weights, parts, strict=True):
        if weight:
            term = part if weight == 1 else -part if weight == -1 else part * jnp.asarray(weight, part.dtype)
            total = term if total is None else total + term
    assert total is not None
    return total


def output(form: Form, x: jax.Array, w: jax.Array, *, tiles: Tiles) -> jax.Array:
    if form.groups > 1:
        one = functools.partial(output, form._replace(groups=1), tiles=tiles)
        y = jax.vmap(one, (1, 0), 1)(_grouped(form, x, 1), _grouped(form, w, 0))
        return y.reshape(x.shape[0], -1, *form.out)
    pads = [(low, high + more) for (low, high), more in zip(form.pads, _missing(form, tiles), strict=True)]
    y = _output(padded(x.swapaxes(0, 1), pads), w, tiles)
    return y[(..., *map(slice, form.out))].swapaxes(0, 1)


def weight(form: Form, x: jax.Array, y: jax.Array, *, tiles: Tiles) -> jax.Array:
    if form.groups > 1:
        one = functools.partial(weight, form._replace(groups=1), tiles=tiles)
        w = jax.vmap(one, 1)(_grouped(form, x, 1), _grouped(form, y, 1))
        return w.reshape(-1, *w.shape[2:])
    missing = _missing(form, tiles)
    pads = [(low, high + more) for (low, high), more in zip(form.pads, missing, strict=True)]
    last = jnp.moveaxis(padded(y, [(0, more) for more in missing]), 1, -1)
    w = _weight(padded(x.swapaxes(0, 1), pads), last, form.kernel, tiles)
    return jnp.moveaxis(w, (-1, -2), (0, 1))


def _grouped(form: Form, z: jax.Array, axis: int) -> jax.Array:
    return z.reshape(*z.shape[:axis], form.groups, -1, *z.shape[axis + 1 :])


def guarded(algorithm: Algorithm, other: Algorithm, form: Form, a: jax.Array, b: jax.Array) -> jax.Array:
    """An algorithm of this file for finite operands, and another for others: the transforms carry them to neighbours."""
    return lax.cond(_finite(a) & _finite(b), functools.partial(algorithm, form), functools.partial(other, form), a, b)


def _finite(x: jax.Array) -> jax.Array:
    # By a product, which is a fast sum. A sum of finite numbers may overflow: then the other is slow, not wrong.
    return jnp.isfinite(x.reshape(-1, x.shape[-1]) @ jnp.ones((x.shape[-1],), x.dtype)).all()


def _missing(form: Form, tiles: Tiles) -> list[int]:
    """How many places more than there are make whole tiles."""
    return [-out % m for out, m in zip(form.out, (*tiles, 1), strict=True)]


def _rows(x: jax.Array, m: int, r: int) -> list[jax.Array]:
    """The places of the third axis that are the first, the second, ... of a tile's input: (C, N, tiles, *others) each."""
    others = x.shape[3:]
    count = (x.shape[2] - r + 1) // m
    return [strided(x, [i] + [0] * len(others), [count, *others], [m] + [1] * len(others)) for i in range(m + r - 1)]


def _after(part: jax.Array, results: list[jax.Array]) -> jax.Array:
    """Computed one after the other: then the patches of only one of them are in memory."""
    return lax.optimization_barrier((part, *results[-1:]))[0]


def _merged(part: jax.Array) -> jax.Array:
    return part.reshape(part.shape[0], -1, *part.shape[3:])


def _output(x: jax.Array, w: jax.Array, tiles: Tiles) -> jax.Array:
    """(O, N, *out) of (C, N, *size) and (O, C, *kernel), without padding."""
    if not tiles:
        patches, places = _patches(x, w.shape[2])
        return (w.swapaxes(1, 2).reshape(w.shape[0], -1) @ patches).reshape(-1, *places)
    (m, *rest), r = tiles, w.shape[2]
    a, g, b = _transforms(m, r)
    rows, taps = _rows(x, m, r), [w[:, :, i] for i in range(r)]
    products: list[jax.Array] = []
    for j in range(m + r - 1):
        part = _after(_combined(b[j], rows), products)
        products.append(_output(_merged(part), _combined(g[j], taps), tuple(rest)))
    out = jnp.stack([_combined(a[i], products) for i in range(m)], 2)
    return out.reshape(out.shape[0], x.shape[1], -1, *out.shape[3:])


def _weight(x: jax.Array, y: jax.Array, kernel: Sequence[int], tiles: Tiles) -> jax.Array:
    """(*kernel, C, O) of (C, N, *size) and (N, *out, O), without padding."""
    if not tiles:
        patches, _ = _patches(x, kernel[0])
        return (patches @ y.reshape(-1, y.shape[-1])).reshape(kernel[0], x.shape[0], -1)
    (m, *rest), r = tiles, kernel[0]
    a, g, b = _transforms(m, r)
    rows, outs = _rows(x, m, r), [y[:, i::m] for i in range(m)]
    products: list[jax.Array] = []
    for j in range(m + r - 1):
        part, cotangent = _after(_combined(b[j], rows), products), _combined(a[:, j], outs)
        products.append(_weight(_merged(part), cotangent.reshape(-1, *cotangent.shape[2:]), kernel[1:], tuple(rest)))
    return jnp.stack([_combined(g[:, i], products) for i in range(r)])


def _patches(x: jax.Array, kernel: int) -> tuple[jax.Array, tuple[int, int]]:
    """(kernel · C, N · out) of (C, N, size), and (N, out)."""
    channels, batch, size = x.shape
    out = size - kernel + 1
    patches = jnp.concatenate([x[..., i : i + out] for i in range(kernel)]) if kernel > 1 else x
    return patches.reshape(kernel * channels, batch * out), (batch, out)
