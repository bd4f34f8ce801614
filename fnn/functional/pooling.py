"""Pooling: 1-, 2- and 3-dimensional doors to one function each."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.functional.checks import accumulating, array, floating, integer, ntuple

__all__ = ["adaptive_avg_pool2d", "max_pool1d", "max_pool2d", "max_pool3d"]

_PADDING = np.int32(np.iinfo(np.int32).max)  # a place out of range, which gathers the lowest value


def _pooled_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (-(-span // stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1  # a window must start inside the input or its left padding
    return out


def _max_pool(
    n: int, input: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, return_indices: bool
) -> Any:
    name = f"max_pool{n}d"
    x = array(input, "input")
    if x.ndim not in (n + 1, n + 2):
        raise RuntimeError(f"{name}: Expected {n + 1}D or {n + 2}D input, but got input of size {list(x.shape)}")
    if x.dtype == bool or jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise NotImplementedError(f'"{name}" not implemented for {x.dtype.name}: expected real numbers')
    kernel = ntuple(kernel_size, n, "kernel_size")
    strides = kernel if stride is None or stride == [] or stride == () else ntuple(stride, n, "stride")
    pads, dilations = ntuple(padding, n, "padding"), ntuple(dilation, n, "dilation")
    if min(kernel) < 1 or min(strides) < 1 or min(dilations) < 1:
        raise RuntimeError(f"{name}: kernel_size, stride and dilation must be positive, got {kernel}, {strides}, {dilations}")
    if any(p < 0 or p > k // 2 for p, k in zip(pads, kernel, strict=True)):
        raise RuntimeError(
            f"pad should be non-negative and at most half of kernel size, but got pad={pads}, kernel_size={kernel}"
        )
    space = x.shape[-n:]
    shape = [_pooled_size(*sizes, ceil_mode) for sizes in zip(space, kernel, strides, pads, dilations, strict=True)]
    if min(shape) < 1:
        raise RuntimeError(f"Given input size: {list(x.shape)}. Calculated output size: {shape}. Output size is too small")
    # Behind the input as much as the last window needs, which ceil_mode lets reach beyond the padding.
    ends = [
        max((o - 1) * s + d * (k - 1) + 1 - size - p, 0)
        for o, s, d, k, size, p in zip(shape, strides, dilations, kernel, space, pads, strict=True)
    ]
    lead = x.ndim - n
    windows: dict[str, Any] = {
        "window_dimensions": (1,) * lead + kernel,
        "window_strides": (1,) * lead + strides,
        "padding": [(0, 0)] * lead + list(zip(pads, ends, strict=True)),
        "window_dilation": (1,) * lead + dilations,
    }
    lowest: Any = np.asarray(-np.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min, x.dtype)[()]
    if not return_indices and max(dilations) == 1:  # with dilation JAX has no derivative of it
        return lax.reduce_window(x, lowest, lax.max, **windows)
    places = jnp.broadcast_to(jnp.arange(math.prod(space), dtype=jnp.int32).reshape(space), x.shape)
    _, index = lax.reduce_window((lax.stop_gradient(x), places), (lowest, _PADDING), _first_maximum, **windows)
    flat, where = (a.reshape(*x.shape[:lead], math.prod(a.shape[lead:])) for a in (x, index))
    best = jnp.take_along_axis(flat, where, axis=-1, mode="fill", fill_value=lowest).reshape(index.shape)
    return (best, index) if return_indices else best


def _first_maximum(a: Any, b: Any) -> Any:
    """The larger of two pairs of value and place: of equals the first, of NaNs the last, and of padding none."""
    (value, place), (other, other_place) = a, b
    larger = (other > value) | ((other == value) & (other_place < place))
    nan = jnp.isnan(other) & (~jnp.isnan(value) | (other_place > place))
    take = (place == _PADDING) | ((other_place != _PADDING) & (larger | nan))
    return jnp.where(take, other, value), jnp.where(take, other_place, place)


def max_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window over one axis; see `max_pool2d`.

    Args:
        input: (N, C, L) or (C, L).
        kernel_size, stride, padding, dilation, ceil_mode, return_indices: as for `max_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> max_pool1d(jnp.array([[1.0, 3.0, 2.0, 0.0]]), 2).tolist()
        [[3.0, 2.0]]
    """
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window over two axes.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size: the size of the window.
        stride: the step; the size of the window by default.
        padding: of −∞ on both sides; at most half of the window.
        dilation: the distance between elements of a window.
        ceil_mode: round the size of the output up instead of down, so that the last window may reach beyond the input.
        return_indices: return also where in H·W each maximum was found.

    Returns:
        (N, C, H_out, W_out) or (C, H_out, W_out), with
        H_out = ⌊(H + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1; with `return_indices` a pair of them.

    Raises:
        RuntimeError: where sizes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> max_pool2d(jnp.arange(16.0).reshape(1, 4, 4), 2).tolist()
        [[[5.0, 7.0], [13.0, 15.0]]]
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window over three axes; see `max_pool2d`.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        kernel_size, stride, padding, dilation, ceil_mode, return_indices: as for `max_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> max_pool3d(jnp.ones((1, 4, 4, 4)), 2).shape
        (1, 2, 2, 2)
    """
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def adaptive_avg_pool2d(input: Any, output_size: Any) -> jax.Array:
    """The mean over as many windows of nearly equal size as the output shall have elements.

    Window i of an axis goes from ⌊i · size / output⌋ to ⌈(i + 1) · size / output⌉.

    Args:
        input: (N, C, H, W) or (C, H, W).
        output_size: one number, or (H_out, W_out); None keeps the size of the input.

    Raises:
        RuntimeError: where the input has another number of axes, or an empty one.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_avg_pool2d(jnp.arange(16.0).reshape(1, 4, 4), 1).tolist()
        [[[7.5]]]
    """
    x = array(input, "input")
    if x.ndim not in (3, 4):
        raise RuntimeError(f"adaptive_avg_pool2d(): Expected 3D or 4D tensor, but got {list(x.shape)}")
    floating("adaptive_avg_pool2d", x.dtype)
    if 0 in x.shape[-2:]:
        raise RuntimeError(
            f"adaptive_avg_pool2d(): Expected input to have non-zero size for non-batch dimensions, but input has sizes "
            f"{list(x.shape)}"
        )
    sizes = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if len(sizes) != 2:
        raise RuntimeError(f"adaptive_avg_pool2d: output_size must be 2, got {len(sizes)} numbers")
    y = accumulating(x)
    for axis, size in zip((-2, -1), sizes, strict=True):
        if size is not None and size != x.shape[axis]:
            y = _adaptive_mean(y, axis, integer(size, "output_size"))
    return y.astype(x.dtype)


def _adaptive_mean(x: jax.Array, axis: int, out: int) -> jax.Array:
    size = x.shape[axis]
    if out < 0:
        raise RuntimeError(f"adaptive_avg_pool: elements of output_size must be greater than or equal to 0, got {out}")
    if out and size % out == 0:
        axis %= x.ndim
        return x.reshape(*x.shape[:axis], out, size // out, *x.shape[axis + 1 :]).mean(axis + 1)
    weights = np.zeros((size, out))
    for i in range(out):
        start, end = i * size // out, -(-(i + 1) * size // out)
        weights[start:end, i] = 1 / (end - start)
    means = jnp.matmul(jnp.moveaxis(x, axis, -1), jnp.asarray(weights, x.dtype), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(means, -1, axis)
