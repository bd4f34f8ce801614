"""Resizing of one axis: a sum of a few elements for each place of the output, and its transpose.

With P places of the output for R of the input, as small whole numbers, every P-th place takes elements at the same distance
from every R-th of the input. So there are P sums of slices for the output, and R for the gradient. At other ratios elements
are gathered, and the gradient is gathered too where it has few elements for each place, or else a product with a small
matrix: a scatter, its usual form, takes 5 to 20 times as long on the CPU.

Times with gradients, as ratios to PyTorch eager's on 2 cores with AVX-512, and in parentheses with products alone: bilinear x2,
4x64x56², 0.46 (1.15); to half the size 0.24 (1.4); bicubic x2 0.09 (0.49); linear x2 0.44 (4.7); nearest x2 0.49 (2.9);
bilinear from 56² to 100² 0.89 (1.3), nearest 1.15 (3.7).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.kernels import plain
from fnn.kernels.linear import linear
from fnn.kernels.pooling import at, interleaved, widened

PHASES = 4  # the largest P and R of sums of slices
SLICES = 12  # and how many slices each sum has at most
GATHERS = 4  # the largest number of elements that are gathered for each place


class Taps(NamedTuple):
    """Which elements of an axis are summed for each place of the output: (taps, out); no weights for a copy."""

    indices: np.ndarray
    weights: np.ndarray | None

    def matrix(self, size: int, dtype: np.dtype) -> np.ndarray:
        """The sums as a product: (size, out)."""
        matrix = np.zeros((size, self.indices.shape[1]), dtype)
        np.add.at(matrix, (self.indices, np.arange(matrix.shape[1])), 1 if self.weights is None else self.weights)
        return matrix


class _Phase(NamedTuple):
    """Every P-th place of an output: elements at which distances from every R-th of the input it takes, times what."""

    length: int
    places: list[np.ndarray]
    weights: list[np.ndarray]


def resample(x: jax.Array, axis: int, taps: Taps) -> jax.Array:
    """The sum of taps along an axis."""
    size = x.shape[axis]
    if plain() or not jnp.issubdtype(x.dtype, jnp.floating):
        return _gathered(taps, axis, x)
    matrix = taps.matrix(size, x.dtype)
    phases, back = _phases(matrix), _phases(matrix.T)
    # Taps of weight 0 are not in the slices, but torch makes NaN of them where the element is not finite. At the border alone,
    # where places before the first element take it and 0 times the second, they are left out.
    zeros = 0 if taps.weights is None else (taps.weights == 0).any(0).sum()
    forward = functools.partial(_gathered, taps, axis)
    if phases and taps.weights is not None and zeros <= len(phases) // 2:
        forward = functools.partial(_summed, phases, axis)
    if back:
        transpose = functools.partial(_summed, back, axis)
    elif (owners := _transposed(matrix)) is not None:
        transpose = functools.partial(_gathered, owners, axis)
    elif size <= 256 * len(taps.indices):
        transpose = functools.partial(_multiplied, matrix, axis)
    else:  # a long axis, of which the matrix would be large
        return forward(x)
    return linear(forward, transpose, x)


def _phases(matrix: np.ndarray) -> list[_Phase] | None:
    """The product with a matrix (size, out) as sums of slices, if there are few of them."""
    size, out = matrix.shape
    count = math.gcd(size, out)
    rows, columns = size // count, out // count
    if max(rows, columns) > PHASES:
        return None
    phases = []
    for phase in range(columns):
        part = matrix[:, phase::columns]
        taken, of = np.nonzero(part)
        distances = np.unique(taken - of * rows)
        if len(distances) > SLICES:
            return None
        places = [np.arange(count) * rows + d for d in distances]
        inside = [(p >= 0) & (p < size) for p in places]
        weights = [np.where(i, part[p.clip(0, size - 1), np.arange(count)], 0) for p, i in zip(places, inside, strict=True)]
        phases.append(_Phase(count, places, weights))
    return phases


def _summed(phases: list[_Phase], axis: int, x: jax.Array) -> jax.Array:
    last = axis - x.ndim
    (x,), places = widened([(x, 0)], last, [p for phase in phases for p in phase.places])
    slices = iter(places)
    sums = []
    for phase in phases:
        parts = [_times(at(x, last, next(slices)), weight, axis) for weight in phase.weights]
        shape = [phase.length if i == axis else n for i, n in enumerate(x.shape)]
        sums.append(sum(parts[1:], parts[0]) if parts else jnp.zeros(shape, x.dtype))
    return lax.optimization_barrier(interleaved(sums, last))


def _times(x: jax.Array, weight: np.ndarray, axis: int) -> jax.Array:
    if (weight == weight[0]).all():
        return x if weight[0] == 1 else x * weight[0].astype(x.dtype)
    return x * weight.astype(x.dtype).reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def _transposed(matrix: np.ndarray) -> Taps | None:
    """The taps of the transpose, if there are few for each place."""
    found = [np.flatnonzero(row) for row in matrix]
    most = max(map(len, found))
    if not 0 < most <= GATHERS:
        return None
    # What is missing is another one's, times 0.
    indices = np.stack([np.pad(f, (0, most - len(f)), "edge") if len(f) else np.zeros(most, int) for f in found], axis=1)
    there = np.arange(most)[:, None] < np.array([len(f) for f in found])
    return Taps(indices, np.where(there, matrix[np.arange(len(matrix)), indices], 0))


def _gathered(taps: Taps, axis: int, x: jax.Array) -> jax.Array:
    count, out = taps.indices.shape
    if taps.weights is None:
        return _take(x, axis, taps.indices[0])
    weight = taps.weights.astype(x.dtype)
    if count <= GATHERS:
        parts = [_times(_take(x, axis, index), w, axis) for index, w in zip(taps.indices, weight, strict=True)]
        return sum(parts[1:], parts[0])
    elements = _take(x, axis, taps.indices.reshape(-1))
    elements = elements.reshape(*x.shape[:axis], count, out, *x.shape[axis + 1 :])
    spread = weight.reshape(*[1] * axis, count, out, *[1] * (x.ndim - axis - 1))
    # A weight of 0 stands for no tap at all, also where the element is not finite.
    return jnp.where(spread == 0, 0, elements * spread).sum(axis)


def _take(x: jax.Array, axis: int, index: np.ndarray) -> jax.Array:
    """Elements along an axis, as copies where that is what they are."""
    size, out = x.shape[axis], len(index)
    if out % size == 0 and (index == np.arange(out) // (out // size)).all():
        shape = (*x.shape[: axis + 1], out // size, *x.shape[axis + 1 :])
        return lax.broadcast_in_dim(x, shape, [i for i in range(len(shape)) if i != axis + 1]).reshape(
            (*x.shape[:axis], out, *x.shape[axis + 1 :])
        )
    return at(x, axis - x.ndim, index)


def _multiplied(matrix: np.ndarray, axis: int, y: jax.Array) -> jax.Array:
    """The transpose, of cotangents of the output."""
    x = lax.dot_general(y, matrix, (((axis,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(x, -1, axis)
