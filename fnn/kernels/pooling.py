"""Pooling, one axis of space after the other: each window's elements are slices, and each derivative is one way round.

The rule, for the windows of an axis:

- of at most TAPS elements, slices: the number of the best is kept as int8, and a gradient is sums of slices as well;
- of more than BLOCK, side by side: reductions of a reshaped axis;
- larger, and overlapping: `lax.reduce_window` for sums and values, places and a gather for the gradient of a maximum.

Values of maxima alone are `lax.reduce_window` unless windows are small and side by side. Times with gradients, as ratios to
PyTorch eager's, on 2 cores with AVX-512, float32, and of the stock operation behind them:

| maximum          |             |             | mean                |             |             |
|------------------|-------------|-------------|---------------------|-------------|-------------|
| 3 s2 p1, 8x64x112² | 0.58      | 2.3 to 2.9  | 2 s2, 8x64x56²      | 0.21        | 1.6         |
| 3 s2 p1, 1x64x112² | 0.17      | 2.2         | 3 s2 p1, 8x64x56²   | 0.49        | 1.6 to 2.0  |
| 2 s2, 8x64x56²   | 0.25        | 4.6         | 3 s1 p1, 8x64x28²   | 0.21        | 0.6         |
| 5 s1 p2, 8x64x20² | 0.10       | 2.8         | 11 s1 p5, 4x16x64²  | 0.04        | 1.3         |
| 3 s1 p1, 4x128x14² | 0.65      | 1.8         | 2 s2, 2x32x16³      | 0.49        | 3.2         |
| 2 s2, 2x32x16³   | 0.73        | 2.8         | of all, 8x64x56²    | 0.92 to 1.2 | 1.2         |
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.kernels import plain
from fnn.kernels.linear import linear
from fnn.kernels.sharding import is_divided

# The largest number of slices of an axis. It bounds the time to compile, too.
TAPS = 16

# Windows of more elements that are side by side are reduced.
BLOCK = 4

_OUTSIDE = np.int32(np.iinfo(np.int32).max)  # a place out of range, which gathers the lowest value


class Windows(NamedTuple):
    """Windows at equal distances, for each axis of space."""

    space: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    shape: tuple[int, ...]

    def positions(self) -> list[np.ndarray]:
        """For each axis, where the elements of each window are, (windows, elements); some are outside."""
        return [
            np.arange(out)[:, None] * stride - pad + dilation * np.arange(kernel)
            for _, kernel, stride, pad, dilation, out in zip(*self, strict=True)
        ]

    def reduce(self, x: jax.Array, initial: Any, operation: Callable[..., Any]) -> jax.Array:
        """The windows' elements combined, those outside as the initial value."""
        ones = (1,) * (x.ndim - len(self.space))
        ends = [max(int(p[-1, -1]) + 1 - size, 0) for p, size in zip(self.positions(), self.space, strict=True)]
        return lax.reduce_window(
            x,
            np.asarray(initial, x.dtype)[()],
            operation,
            ones + self.kernel,
            ones + self.strides,
            [(0, 0) for _ in ones] + list(zip(self.pads, ends, strict=True)),
            window_dilation=ones + self.dilations,
        )


class AdaptiveWindows(NamedTuple):
    """As many windows as the output shall have elements, of nearly equal sizes, for each axis of space."""

    space: tuple[int, ...]
    shape: tuple[int, ...]

    def positions(self) -> list[np.ndarray]:
        """For each axis, where the elements of each window are, and -1 where one is smaller than the largest."""
        return [self._axis(*sizes) for sizes in zip(self.space, self.shape, strict=True)]

    @staticmethod
    def _axis(size: int, out: int) -> np.ndarray:
        start, end = np.arange(out) * size // max(out, 1), -(-np.arange(1, out + 1) * size // max(out, 1))
        where = start[:, None] + np.arange((end - start).max(initial=1))
        return np.where(where < end[:, None], where, -1)


def adaptive_windows(space: tuple[int, ...], shape: tuple[int, ...]) -> Windows | AdaptiveWindows:
    """As many windows as the output shall have elements; of those that are of one size and side by side, the usual ones."""
    if not all(out and size % out == 0 for size, out in zip(space, shape, strict=True)):
        return AdaptiveWindows(space, shape)
    kernel = tuple(size // out for size, out in zip(space, shape, strict=True))
    return Windows(space, kernel, kernel, (0,) * len(kernel), (1,) * len(kernel), shape)


class _Axis:
    """The windows of one axis: of an array to what lies at their elements, and back."""

    def __init__(self, axis: int, where: np.ndarray, size: int):
        self.axis, self.where, self.size = axis, where, size
        (self.out, self.count), inside = where.shape, (where >= 0) & (where < size)
        first, steps = where[:1, :1], (where[1:2, 0] - where[0, 0], where[0, 1:2] - where[0, 0])
        dilation = int(steps[1][0]) if self.count > 1 else 1
        stride = int(steps[0][0]) if self.out > 1 else self.count * dilation
        places = first + stride * np.arange(self.out)[:, None] + dilation * np.arange(self.count)
        #: The distance between windows, where it is one.
        self.stride = stride if stride > 0 and (where == places).all() else 0
        self.inside = inside
        #: The number of the first element inside of each window.
        self.first = inside.argmax(1)
        #: Whether windows are large and side by side, and reductions of their own axis.
        self.blocks = self.count > BLOCK and self.stride >= self.count and dilation == 1 and where[0, 0] == 0

    def along(self, values: np.ndarray, dtype: Any = None) -> np.ndarray:
        """Numbers along this axis, to be combined with arrays."""
        return values.astype(dtype or values.dtype).reshape(len(values), *[1] * (-1 - self.axis))

    def split(self, x: jax.Array, outside: Any) -> jax.Array:
        """Windows that lie side by side, on an axis of their own before their elements'."""
        axis = x.ndim + self.axis
        config = [(0, self.out * self.stride - self.size if i == axis else 0, 0) for i in range(x.ndim)]
        x = lax.pad(x, np.asarray(outside, x.dtype)[()], config)
        x = x.reshape(*x.shape[:axis], self.out, self.stride, *x.shape[axis + 1 :])
        return lax.slice_in_dim(x, 0, self.count, 1, axis + 1)

    def joined(self, y: jax.Array) -> jax.Array:
        """The transpose."""
        axis, zero = y.ndim + self.axis - 1, np.zeros((), y.dtype)
        y = lax.pad(y, zero, [(0, self.stride - self.count if i == axis + 1 else 0, 0) for i in range(y.ndim)])
        y = y.reshape(*y.shape[:axis], self.out * self.stride, *y.shape[axis + 2 :])
        return lax.pad(y, zero, [(0, self.size - y.shape[axis] if i == axis else 0, 0) for i in range(y.ndim)])

    def taps(self, x: jax.Array, outside: Any, sums: bool = False) -> list[jax.Array]:
        """The first element of each window, the second, ...; and this one for those outside."""
        if not self.stride or (sums and self.count <= BLOCK):  # sums of few are faster with a branch: 3x3 in half the time
            return [at(x, self.axis, self.where[:, t], outside) for t in range(self.count)]
        (x,), where = widened([(x, outside)], self.axis, list(self.where.T))
        return [at(x, self.axis, places) for places in where]

    def owners(self) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """For each phase of the axis, the windows that its elements are in, and as which of their elements each is.

        Phases are the elements at distances of the windows': one of them is in all its windows as the same elements.
        """
        if self.stride:
            steps = np.arange(-(-self.size // self.stride)) * self.stride
            return [
                [
                    ((steps + phase - start) // self.stride, np.full(len(steps), t))
                    for t, start in enumerate(self.where[0])
                    if (phase - start) % self.stride == 0
                ]
                for phase in range(min(self.stride, self.size))
            ]
        found = [np.argwhere(self.where == i) for i in range(self.size)]
        most = max((len(pairs) for pairs in found), default=0)
        pairs = np.array([np.concatenate([p, np.full((most - len(p), 2), -1)]) for p in found]).reshape(self.size, most, 2)
        return [[(pairs[:, j, 0], pairs[:, j, 1]) for j in range(most)]]

    def gathered(self, y: jax.Array, which: jax.Array | None = None) -> jax.Array:
        """For each element the sum of its windows' y; of those windows alone that chose it, where that is said."""
        phases = self.owners()
        owners = [owner for phase in phases for owner in phase]
        arrays, windows = [(y, 0)] if which is None else [(y, 0), (which, -1)], [window for window, _ in owners]
        if self.stride and owners and (which is not None or self.count > BLOCK):
            wide, windows = widened(arrays, self.axis, windows)
            arrays = [(x, fill) for x, (_, fill) in zip(wide, arrays, strict=True)]

        def part(window: np.ndarray, t: np.ndarray) -> jax.Array:
            value, *chosen = (at(x, self.axis, window, fill) for x, fill in arrays)
            return jnp.where(chosen[0] == np.int8(t[0]), value, np.zeros((), y.dtype)) if chosen else value

        parts = iter([part(window, t) for window, (_, t) in zip(windows, owners, strict=True)])
        shape = [-(-self.size // max(self.stride, 1)) if i == y.ndim + self.axis else size for i, size in enumerate(y.shape)]
        sums = [_sum([next(parts) for _ in phase]) if phase else jnp.zeros(shape, y.dtype) for phase in phases]
        whole = interleaved(sums, self.axis)
        return lax.slice_in_dim(whole, 0, self.size, 1, whole.ndim + self.axis)


def at(x: jax.Array, axis: int, index: np.ndarray, outside: Any = 0) -> jax.Array:
    """The elements at places of an axis, counted from the last axis: as a slice where the places are at equal distances."""
    axis, size, fill = x.ndim + axis, x.shape[axis], np.asarray(outside, x.dtype)[()]
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if len(index) and step > 0 and (index == index[0] + step * np.arange(len(index))).all():
        first, last = int(index[0]), int(index[-1])
        before, after = max(-first, 0), max(last + 1 - size, 0)
        if before or after:
            x = lax.pad(x, fill, [(before, after, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)])
        return lax.slice_in_dim(x, first + before, last + before + 1, step, axis)
    inside = (index >= 0) & (index < size)
    y = x.at[(slice(None),) * axis + (np.clip(index, 0, size - 1),)].get(mode="promise_in_bounds")
    return y if inside.all() else jnp.where(inside.reshape(-1, *[1] * (x.ndim - axis - 1)), y, fill)


def widened(
    arrays: list[tuple[jax.Array, Any]], axis: int, places: list[np.ndarray]
) -> tuple[list[jax.Array], list[np.ndarray]]:
    """Arrays with as much around them that all places are inside, and the places in them.

    Once for all places, and apart from what is done with them: within a loop it is a branch for each element, and the
    gradient of 5x5 windows at distance 1 took 3.0 times as long as torch's, not 0.3.
    """
    size = arrays[0][0].shape[axis]
    before = max([0, *(-int(p.min(initial=0)) for p in places)])
    after = max([0, *(int(p.max(initial=0)) + 1 - size for p in places)])
    if not before + after:
        return [x for x, _ in arrays], places
    wide = []
    for x, fill in arrays:
        config = [(before, after, 0) if i == x.ndim + axis else (0, 0, 0) for i in range(x.ndim)]
        wide.append(lax.pad(x, np.asarray(fill, x.dtype)[()], config))
    return lax.optimization_barrier(wide), [p + before for p in places]


def interleaved(phases: list[jax.Array], axis: int) -> jax.Array:
    """The array of which these are the phases: the first has the first element, the second the second, and so on."""
    if len(phases) == 1:
        return phases[0]
    axis += phases[0].ndim
    stacked = jnp.stack(phases, axis + 1)
    return stacked.reshape(*stacked.shape[:axis], stacked.shape[axis] * len(phases), *stacked.shape[axis + 2 :])


def _sum(parts: Sequence[jax.Array]) -> jax.Array:
    return sum(parts[1:], parts[0])


def _axes(windows: Windows | AdaptiveWindows) -> list[_Axis] | None:
    """The axes of space, or None where one of them has many slices."""
    n = len(windows.space)
    axes = [_Axis(i - n, where, size) for i, (where, size) in enumerate(zip(windows.positions(), windows.space, strict=True))]
    return axes if all(axis.blocks or axis.count <= TAPS for axis in axes) else None


def _flat(x: jax.Array, windows: Windows | AdaptiveWindows) -> tuple[jax.Array, Windows | AdaptiveWindows]:
    """The same with one axis of space, where there is one window that is all of it."""
    whole = isinstance(windows, Windows) and windows.kernel == windows.space and not any(windows.pads)
    if whole and max(windows.shape) == 1 and not plain():
        size = math.prod(windows.space)
        x = x.reshape(*x.shape[: x.ndim - len(windows.space)], size)
        return x, Windows((size,), (size,), (size,), (0,), (1,), (1,))
    return x, windows


# The mean.


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def average(x: jax.Array, windows: Windows | AdaptiveWindows, divisor: int | None, padding_counts: bool) -> jax.Array:
    """The sum of each window, divided by a number or by how many elements it has, which those of the padding may be among."""
    counts = np.asarray(1 if divisor is None else divisor)
    if divisor is None:
        for i, (where, size) in enumerate(zip(windows.positions(), windows.space, strict=True)):
            # torch does not count what lies beyond the padding, which ceil_mode lets windows reach.
            end = size + windows.pads[i] if padding_counts and isinstance(windows, Windows) else size
            inside = where < end if padding_counts and isinstance(windows, Windows) else (where >= 0) & (where < end)
            counts = counts[..., None] * inside.sum(1)
    whole = jnp.issubdtype(x.dtype, jnp.integer)
    y = total(x if whole else x.astype(jnp.promote_types(x.dtype, jnp.float32)), windows)
    divisors = jnp.asarray(counts if counts.size and counts.min() != counts.max() else counts.ravel()[:1].sum(), y.dtype)
    # torch's division of integers rounds to zero.
    return lax.div(y, jnp.broadcast_to(divisors, y.shape)) if whole else (y / divisors).astype(x.dtype)


def total(x: jax.Array, windows: Windows | AdaptiveWindows) -> jax.Array:
    """The sum of each window."""
    shape = (*x.shape[: x.ndim - len(windows.space)], *windows.shape)
    x, windows = _flat(x, windows)
    if isinstance(windows, Windows) and _is_product(x, windows):
        return jnp.matmul(x, jnp.ones((*windows.space, 1), x.dtype), precision=lax.Precision.HIGHEST).reshape(shape)
    axes = None if plain() or 0 in windows.shape else _axes(windows)
    if axes is None:
        if isinstance(windows, Windows):
            return windows.reduce(x, 0, lax.add).reshape(shape)
        return _total_of_uneven(x, windows)
    forward, transpose = functools.partial(_total, axes), functools.partial(_spread, axes)
    return (forward(x) if jnp.issubdtype(x.dtype, jnp.integer) else linear(forward, transpose, x)).reshape(shape)


def _is_product(x: jax.Array, windows: Windows) -> bool:
    """Whether a sum is faster as a product with ones: on the CPU, of all of one axis.

    With the gradient, 8x512 windows of 7x7: 0.13 ms; by a reduction 0.18, by reduce_window 0.21. Times over those of
    reduce_window, by product and by reduction: 64x256x4x4 0.31 and 0.49, 32x2048x7x7 0.75 and 0.66, 8x96x2x2 1.20 and 0.96.
    """
    whole = windows.kernel == windows.space and len(windows.space) == 1 and not any(windows.pads)
    medium = 2**14 <= x.size < 2**20 and jnp.issubdtype(x.dtype, jnp.floating)
    return whole and medium and jax.default_backend() == "cpu" and not plain() and not is_divided(x)


def _total(axes: Sequence[_Axis], x: jax.Array) -> jax.Array:
    for axis in axes:
        x = axis.split(x, 0).sum(axis.axis) if axis.blocks else _apart(_sum(axis.taps(x, 0, sums=True)), axis)
    return x


def _spread(axes: Sequence[_Axis], y: jax.Array) -> jax.Array:
    for axis in reversed(axes):
        if axis.blocks:
            shape = (*y.shape[: y.ndim + axis.axis + 1], axis.count, *y.shape[y.ndim + axis.axis + 1 :])
            y = axis.joined(lax.broadcast_in_dim(y, shape, [i for i in range(len(shape)) if i != len(shape) + axis.axis]))
        else:
            y = _apart(axis.gathered(y), axis)
    return y


def _apart(x: jax.Array, axis: _Axis) -> jax.Array:
    # Many slices of many are not one loop: it computes 121 of 11x11 for each element, and compiled for 0.9 s.
    return lax.optimization_barrier(x) if axis.count > BLOCK else x


def _total_of_uneven(x: jax.Array, windows: AdaptiveWindows) -> jax.Array:
    n = len(windows.space)
    for axis, where in enumerate(windows.positions(), x.ndim - n):
        # Not a product with a matrix, in which an infinite element makes NaN of windows that it is not in.
        inside = (where >= 0).reshape(*where.shape, *[1] * (x.ndim - axis - 1))
        x = jnp.where(inside, jnp.take(x, where, axis, mode="clip"), 0).sum(axis + 1)
    return x


# The maximum.


def lowest(dtype: Any) -> Any:
    """What no element is less than."""
    return np.asarray(-np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min, dtype)[()]


@functools.partial(jax.jit, static_argnums=1)
def maxima(x: jax.Array, windows: Windows | AdaptiveWindows) -> jax.Array:
    """The maximum of each window; of equals the first takes the gradient, of NaNs the last."""
    shape = (*x.shape[: x.ndim - len(windows.space)], *windows.shape)
    x, windows = _flat(x, windows)
    if plain() and isinstance(windows, Windows) and max(windows.dilations) == 1:
        return windows.reduce(x, lowest(x.dtype), lax.max).reshape(shape)
    return _maxima(x, windows, False).reshape(shape)


@functools.partial(jax.jit, static_argnums=1)
def maxima_and_places(x: jax.Array, windows: Windows | AdaptiveWindows) -> tuple[jax.Array, jax.Array]:
    """The maxima, and where they are, as places in the flat space."""
    shape = (*x.shape[: x.ndim - len(windows.space)], *windows.shape)
    x, windows = _flat(x, windows)
    axes = None if plain() or 0 in windows.shape else _axes(windows)
    if axes is None:
        places = first_maxima(x, windows.positions())
        best = taken(x, places, len(windows.space), lowest(x.dtype))
    else:
        best, places = _maxima(x, windows, True), _places(_scan(lax.stop_gradient(x), axes)[1], axes)
    return best.reshape(shape), places.reshape(shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _maxima(x: jax.Array, windows: Windows | AdaptiveWindows, scanned: bool) -> jax.Array:
    axes = None if plain() or 0 in windows.shape else _axes(windows)
    if isinstance(windows, Windows) and (axes is None or not scanned):
        if axes is None or any(axis.count > min(axis.stride, BLOCK) for axis in axes):
            return windows.reduce(x, lowest(x.dtype), lax.max)
        # Few elements and side by side: 64x56x56, 8 of them, in 2x2 took 0.2 ms, and reduce_window 0.8 to 1.3.
        for axis in axes:
            x = functools.reduce(jnp.maximum, axis.taps(x, lowest(x.dtype)))
        return x
    if axes is None:
        return taken(x, first_maxima(x, windows.positions()), len(windows.space), lowest(x.dtype))
    return _scan(x, axes)[0]


@_maxima.defjvp
def _maxima_jvp(windows: Windows | AdaptiveWindows, scanned: bool, primals: Any, tangents: Any) -> Any:
    # By place: JAX derives none for dilated windows, and XLA's own passes NaN over and takes 10 times as long on the CPU.
    (x,), (tangent,) = primals, tangents
    axes = None if plain() or 0 in windows.shape else _axes(windows)
    if axes is None:
        places = first_maxima(x, windows.positions())
        return _maxima(x, windows, scanned), taken(tangent, places, len(windows.space), 0)
    found = _scan(lax.stop_gradient(x), axes)[1]
    if isinstance(windows, AdaptiveWindows):  # few, so that a scatter is the fastest
        return _maxima(x, windows, True), taken(tangent, _places(found, axes), len(axes), 0)
    pick, unpick = functools.partial(_pick, axes), functools.partial(_unpick, axes)
    return _maxima(x, windows, True), linear(pick, unpick, tangent, *found)


def _scan(x: jax.Array, axes: Sequence[_Axis]) -> tuple[jax.Array, list[jax.Array]]:
    """The maxima, and for each axis which of the elements of its windows they are."""
    # The last axis first, since of equals in several rows the first row's is found.
    found = []
    for axis in reversed(axes):
        x, which = lax.optimization_barrier(_best_of_block(x, axis) if axis.blocks else _best(x, axis))
        found.append(which)
    return x, found[::-1]


def _best(x: jax.Array, axis: _Axis) -> tuple[jax.Array, jax.Array]:
    best, *others = axis.taps(x, lowest(x.dtype))
    which = jnp.zeros(best.shape, jnp.int8)
    for t, value in enumerate(others, 1):
        take = (value > best) | (value != value)
        best, which = jnp.where(take, value, best), jnp.where(take, np.int8(t), which)
    if axis.first.any():  # what is outside is found only where nothing inside is more than the lowest
        which = jnp.maximum(which, axis.along(axis.first, np.int8))
    return best, which


def _best_of_block(x: jax.Array, axis: _Axis) -> tuple[jax.Array, jax.Array]:
    values = axis.split(x, lowest(x.dtype))
    numbers = lax.broadcasted_iota(jnp.int32, values.shape, values.ndim + axis.axis)
    best = values.max(axis.axis, keepdims=True)
    # The first of equals is the least number; the last of NaNs too, where those are counted below zero.
    rank = jnp.where(values == best, numbers, jnp.where(values != values, -1 - numbers, _OUTSIDE))
    which = rank.min(axis.axis)
    return best.squeeze(axis.axis), jnp.where(which < 0, -1 - which, which)


def _pick(axes: Sequence[_Axis], x: jax.Array, *found: jax.Array) -> jax.Array:
    """What is at the maxima."""
    for axis, which in zip(reversed(axes), reversed(found), strict=True):
        zero = np.zeros((), x.dtype)
        if axis.blocks:
            x = jnp.where(_is_block(which, axis), axis.split(x, 0), zero).sum(axis.axis)
        else:
            x = _sum([jnp.where(which == np.int8(t), part, zero) for t, part in enumerate(axis.taps(x, 0))])
    return x


def _unpick(axes: Sequence[_Axis], y: jax.Array, *found: jax.Array) -> jax.Array:
    """The transpose."""
    dtype, zero = y.dtype, np.zeros((), jnp.promote_types(y.dtype, jnp.float32))
    y = y.astype(zero.dtype)
    for axis, which in zip(axes, found, strict=True):
        if axis.blocks:
            y = axis.joined(jnp.where(_is_block(which, axis), jnp.expand_dims(y, y.ndim + axis.axis + 1), zero))
        else:
            y = lax.optimization_barrier(axis.gathered(y, which))
    return y.astype(dtype)


def _is_block(which: jax.Array, axis: _Axis) -> jax.Array:
    which = jnp.expand_dims(which, which.ndim + axis.axis + 1)
    return which == axis.along(np.arange(axis.count, dtype=np.int32))


def _places(found: Sequence[jax.Array], axes: Sequence[_Axis]) -> jax.Array:
    """Where the maxima are in the flat space."""
    places: Any = None
    outside: Any = np.zeros((), bool)
    size = 1
    for i, axis in reversed(list(enumerate(axes))):
        steps = axis.where[0, 1] - axis.where[0, 0] if axis.count > 1 and axis.stride else 1
        which = found[i].astype(jnp.int32)
        place = (axis.along(axis.where[:, 0], np.int32) + which * np.int32(steps)) * np.int32(size)
        if places is not None:
            place += _pick([axis], places, found[i])
        places, size = place, size * axis.size
        outside = np.logical_or(outside, axis.along(np.asarray(~axis.inside.any(1))))
    places = jnp.where(outside, _OUTSIDE, places) if outside.any() else places
    return places.astype(jax.dtypes.canonicalize_dtype(np.int64))


def first_maxima(x: jax.Array, positions: Sequence[Any]) -> jax.Array:
    """Where the maxima of windows are, whatever windows they are.

    Args:
        x: (..., *space).
        positions: for each axis of space (windows, elements); elements outside of the space count for nothing.

    Returns:
        places in the flat space.
    """
    n = len(positions)
    space = x.shape[x.ndim - n :]
    value = lax.stop_gradient(x)
    place = jnp.broadcast_to(jnp.arange(math.prod(space), dtype=jnp.int32).reshape(space), x.shape)
    # One axis after the other: a tenth of the time of one reduce_window over pairs, on the CPU.
    for axis, where in zip(range(-1, -n - 1, -1), reversed(positions), strict=True):
        inside = ((where >= 0) & (where < x.shape[axis])).reshape(*where.shape, *[1] * (-1 - axis))
        value, place = (jnp.take(a, where, axis, mode="clip") for a in (value, place))
        place = jnp.where(inside, place, _OUTSIDE)
        value, place = lax.reduce((value, place), (lowest(x.dtype), _OUTSIDE), _first_maximum, (value.ndim + axis,))
    return place.astype(jax.dtypes.canonicalize_dtype(np.int64))


def _first_maximum(a: Any, b: Any) -> Any:
    """The larger of two pairs of value and place: of equals the first, of NaNs the last, and of padding none."""
    (value, place), (other, other_place) = a, b
    larger = (other > value) | ((other == value) & (other_place < place))
    nan = jnp.isnan(other) & (~jnp.isnan(value) | (other_place > place))
    take = (place == _OUTSIDE) | ((other_place != _OUTSIDE) & (larger | nan))
    return jnp.where(take, other, value), jnp.where(take, other_place, place)


def taken(x: jax.Array, places: jax.Array, n: int, outside: Any) -> jax.Array:
    """The elements at places in the flat space of the last n axes."""
    flat, where = (a.reshape(*x.shape[:-n], math.prod(a.shape[x.ndim - n :])) for a in (x, places))
    return jnp.take_along_axis(flat, where, axis=-1, mode="fill", fill_value=outside).reshape(places.shape)


# The inverse of a maximum.


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def put(x: jax.Array, places: jax.Array, size: int) -> jax.Array:
    """Zeros (planes, size) with elements (planes, n) at places; of those for one place the last."""
    return jax.vmap(lambda elements, where: jnp.zeros(size, x.dtype).at[where].set(elements))(x, places)


@put.defjvp
def put_jvp(size: int, primals: Any, tangents: Any) -> Any:
    # A sum, since its transpose is torch's gradient: of elements for one place each gets all.
    (x, places), (tangent, _) = primals, tangents
    added = jax.vmap(lambda elements, where: jnp.zeros(size, x.dtype).at[where].add(elements))
    return put(x, places, size), added(tangent, places)
