"""Sliding windows of images, and their sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.eager import compiled
from fnn.functional.checks import accumulating, array, ntuple

__all__ = ["fold", "unfold"]


class _Windows:
    """Where windows lie along the two axes of an image."""

    def __init__(self, name: str, kernel_size: Any, dilation: Any, padding: Any, stride: Any):
        self.name = name
        self.kernel, self.dilation = _pair(kernel_size, "kernel_size"), _pair(dilation, "dilation")
        self.padding, self.stride = _pair(padding, "padding"), _pair(stride, "stride")
        if min(*self.kernel, *self.dilation, *self.stride) < 1 or min(self.padding) < 0:
            raise RuntimeError(
                f"{name}: kernel size, dilation and stride should be greater than zero, and padding non-negative, got {self}"
            )

    def __str__(self) -> str:
        return f"kernel_size={self.kernel}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"

    def counts(self, space: Sequence[int]) -> tuple[int, ...]:
        """How many windows there are along each axis of an image."""
        places = zip(space, self.kernel, self.dilation, self.padding, self.stride, strict=True)
        counts = tuple((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, d, p, s in places)
        if min(counts) < 1:
            raise RuntimeError(
                f"{self.name}: an image of size {tuple(space)} has {counts} windows along its axes, where at least one is "
                f"expected, for {self}"
            )
        return counts

    def of(self, x: jax.Array) -> jax.Array:
        """The windows of images (N, C, H, W): (N, C · kernel, windows)."""
        counts = self.counts(x.shape[2:])
        x = jnp.pad(x, ((0, 0), (0, 0), *((p, p) for p in self.padding)))
        for axis, k, d, s, count in zip((2, 4), self.kernel, self.dilation, self.stride, counts, strict=True):
            x = _along(x, axis, k, d, s, count)
        n, c = x.shape[:2]
        return x.swapaxes(3, 4).reshape(n, c * math.prod(self.kernel), math.prod(counts))


def _along(x: jax.Array, axis: int, kernel: int, dilation: int, stride: int, count: int) -> jax.Array:
    """The axis becomes two: the place in the window, and the window."""
    if stride == kernel and dilation == 1:
        whole = lax.slice_in_dim(x, 0, count * kernel, axis=axis)
        return whole.reshape(*x.shape[:axis], count, kernel, *x.shape[axis + 1 :]).swapaxes(axis, axis + 1)
    reach = (count - 1) * stride + 1
    starts = [place * dilation for place in range(kernel)]
    return jnp.stack([lax.slice_in_dim(x, start, start + reach, stride, axis) for start in starts], axis)


def _pair(value: Any, name: str) -> tuple[int, ...]:
    if isinstance(value, Sequence) and len(value) == 1:
        raise RuntimeError(f"It is expected {name} equals to 2, but got size 1: {value}")
    return ntuple(value, 2, name)


def _numeric(name: str, x: jax.Array) -> None:
    if jnp.issubdtype(x.dtype, jnp.integer):
        raise NotImplementedError(f'"{name}" not implemented for {x.dtype.name}')


@compiled
def unfold(input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> jax.Array:
    """The windows of an image, as columns.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size: the size of the window, one number or one for each axis; so are the following.
        dilation: the distance between elements of a window.
        padding: zeros on both sides.
        stride: the distance between windows.

    Returns:
        (N, C · kernel_h · kernel_w, L) or (C · kernel_h · kernel_w, L), where L is the number of windows,
        Π ⌊(size + 2 · padding − dilation · (kernel − 1) − 1) / stride + 1⌋.

    Raises:
        RuntimeError: where sizes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> unfold(jnp.arange(6.0).reshape(1, 2, 3), (2, 2)).tolist()
        [[0.0, 1.0], [1.0, 2.0], [3.0, 4.0], [4.0, 5.0]]
    """
    x = array(input, "input")
    windows = _Windows("unfold", kernel_size, dilation, padding, stride)
    if x.ndim not in (3, 4) or 0 in x.shape[x.ndim - 3 :]:
        error = IndexError if x.ndim < 3 else RuntimeError
        raise error(
            "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions for input, but "
            f"got: {list(x.shape)}"
        )
    _numeric("unfold", x)
    return windows.of(x) if x.ndim == 4 else windows.of(x[None])[0]


@compiled
def fold(input: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> jax.Array:
    """The image whose windows are the columns: the transpose of `unfold`, which adds up where windows overlap.

    Args:
        input: (N, C · kernel_h · kernel_w, L) or (C · kernel_h · kernel_w, L), where L is the number of windows.
        output_size: (H, W).
        kernel_size, dilation, padding, stride: as for `unfold`.

    Returns:
        (N, C, H, W) or (C, H, W).

    Raises:
        RuntimeError: where sizes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> fold(jnp.ones((4, 2)), (2, 3), (2, 2)).tolist()
        [[[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]]
    """
    x = array(input, "input")
    space = _pair(output_size, "output_size")
    windows = _Windows("fold", kernel_size, dilation, padding, stride)
    if x.ndim not in (2, 3) or 0 in x.shape[x.ndim - 2 :]:
        raise RuntimeError(
            "Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and non-zero dimensions for input, but "
            f"got: {list(x.shape)}"
        )
    _numeric("fold", x)
    elements, length = math.prod(windows.kernel), math.prod(windows.counts(space))
    if x.shape[-2] % elements:
        raise RuntimeError(
            f"fold: expected dimension -2 of the input to be divisible by the product of kernel_size, but got {list(x.shape)} "
            f"and kernel_size={windows.kernel}"
        )
    if x.shape[-1] != length or min(space) < 1:
        raise RuntimeError(
            f"fold: an image of output_size={space} has {length} windows for {windows}, but the input has {x.shape[-1]}: "
            f"{list(x.shape)}"
        )
    columns = accumulating(x if x.dtype != bool else x.astype(jnp.float32)).reshape(-1, *x.shape[-2:])
    images = jax.ShapeDtypeStruct((columns.shape[0], x.shape[-2] // elements, *space), columns.dtype)
    (summed,) = jax.linear_transpose(windows.of, images)(columns)
    return summed.reshape(*x.shape[:-2], *images.shape[1:]).astype(x.dtype)
