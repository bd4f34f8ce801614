"""Pooling: 1-, 2- and 3-dimensional doors to one function each.

How windows are pooled is in `fnn.kernels.pooling`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.eager import compiled
from fnn.functional.checks import accumulating, array, floating, integer, known, ntuple, same_dtype
from fnn.kernels.pooling import Windows, adaptive_windows, average, first_maxima, maxima, maxima_and_places, put, taken
from fnn.precision import to_float32
from fnn.random import next_key

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_with_indices",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_with_indices",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_with_indices",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "fractional_max_pool2d",
    "fractional_max_pool2d_with_indices",
    "fractional_max_pool3d",
    "fractional_max_pool3d_with_indices",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool1d_with_indices",
    "max_pool2d",
    "max_pool2d_with_indices",
    "max_pool3d",
    "max_pool3d_with_indices",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
]


def _spatial(name: str, input: Any, n: int, short: type[Exception] = RuntimeError) -> jax.Array:
    """The input as an array with n axes of space; `short` is what torch raises for too few of them."""
    x = array(input, "input")
    if x.ndim not in (n + 1, n + 2):
        error = short if x.ndim <= n else RuntimeError
        raise error(f"{name}: Expected {n + 1}D or {n + 2}D input, but got input of size {list(x.shape)}")
    return x


def _not_empty(name: str, x: jax.Array, axes: int) -> None:
    """Raises where one of the last axes is empty."""
    if 0 in x.shape[-axes:]:
        raise RuntimeError(
            f"{name}: Expected input to have non-zero size for non-batch dimensions, but input has sizes {list(x.shape)}"
        )


def _windows(
    name: str, x: jax.Array, n: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Windows:
    _not_empty(name, x, n + 1)
    space = x.shape[-n:]
    kernel = ntuple(kernel_size, n, "kernel_size")
    strides = kernel if stride is None or stride == [] or stride == () else ntuple(stride, n, "stride")
    pads, dilations = ntuple(padding, n, "padding"), ntuple(dilation, n, "dilation")
    if min(kernel) < 1 or min(strides) < 1 or min(dilations) < 1:
        raise RuntimeError(f"{name}: kernel_size, stride and dilation must be positive, got {kernel}, {strides}, {dilations}")
    if any(p < 0 or p > k // 2 for p, k in zip(pads, kernel, strict=True)):
        raise RuntimeError(
            f"pad should be non-negative and at most half of kernel size, but got pad={pads}, kernel_size={kernel}"
        )
    shape = []
    for size, k, s, p, d in zip(space, kernel, strides, pads, dilations, strict=True):
        span = size + 2 * p - d * (k - 1) - 1
        out = (-(-span // s) if ceil_mode else span // s) + 1
        # A window must start inside the input or its left padding.
        shape.append(out - 1 if ceil_mode and (out - 1) * s >= size + p else out)
    if min(shape) < 1:
        raise RuntimeError(f"Given input size: {list(x.shape)}. Calculated output size: {shape}. Output size is too small")
    return Windows(space, kernel, strides, pads, dilations, tuple(shape))


@compiled
def _max_pool(
    n: int, input: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, return_indices: bool
) -> Any:
    name = f"max_pool{n}d"
    x = _spatial(name, input, n)
    if x.dtype == bool or jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise NotImplementedError(f'"{name}" not implemented for {x.dtype.name}: expected real numbers')
    windows = _windows(name, x, n, kernel_size, stride, padding, dilation, ceil_mode)
    return maxima_and_places(x, windows) if return_indices else maxima(x, windows)


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
        H_out = ⌊(H + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1; with `return_indices` a pair of them. Of equal
        elements the first is found, of NaNs the last, and the gradient goes to it.

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


def max_pool1d_with_indices(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The maximum of each window and where it was found: `max_pool1d` with `return_indices`.

    Example:
        >>> import jax.numpy as jnp
        >>> [y.item() for y in max_pool1d_with_indices(jnp.arange(4.0).reshape(1, 4), 4)]
        [3.0, 3]
    """
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, True)


def max_pool2d_with_indices(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The maximum of each window and where it was found: `max_pool2d` with `return_indices`.

    Example:
        >>> import jax.numpy as jnp
        >>> [y.item() for y in max_pool2d_with_indices(jnp.arange(4.0).reshape(1, 1, 4), (1, 4))]
        [3.0, 3]
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, True)


def max_pool3d_with_indices(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The maximum of each window and where it was found: `max_pool3d` with `return_indices`.

    Example:
        >>> import jax.numpy as jnp
        >>> [y.item() for y in max_pool3d_with_indices(jnp.arange(4.0).reshape(1, 1, 1, 4), (1, 1, 4))]
        [3.0, 3]
    """
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, True)


@compiled
def _avg_pool(
    n: int,
    input: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any = None,
) -> jax.Array:
    name = f"avg_pool{n}d"
    x = _spatial(name, input, n, IndexError if n == 2 else RuntimeError)
    whole = x.dtype in (jnp.int32, jnp.int64)
    if not whole:
        floating(name, x.dtype)
    windows = _windows(name, x, n, kernel_size, stride, padding, 1, ceil_mode)
    if n == 3 and any(k > size for k, size in zip(windows.kernel, windows.space, strict=True)):
        raise RuntimeError(f"input image {windows.space} smaller than kernel size {windows.kernel}")
    divisor = None if divisor_override is None else integer(divisor_override, "divisor_override")
    if divisor == 0:
        raise RuntimeError("divisor must be not zero")
    return average(x, windows, divisor, count_include_pad)


def avg_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    """The mean of each window over one axis; see `avg_pool2d`.

    Args:
        input: (N, C, L) or (C, L).
        kernel_size, stride, padding, ceil_mode, count_include_pad: as for `avg_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> avg_pool1d(jnp.array([[1.0, 3.0, 2.0, 0.0]]), 2).tolist()
        [[2.0, 1.0]]
    """
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    """The mean of each window over two axes.

    Args:
        input: (N, C, H, W) or (C, H, W); floating point, or integers of 32 or 64 bits, whose means are rounded to zero.
        kernel_size: the size of the window.
        stride: the step; the size of the window by default.
        padding: of zeros on both sides; at most half of the window.
        ceil_mode: round the size of the output up instead of down, so that the last window may reach beyond the padding.
        count_include_pad: divide by the elements inside the input and its padding, and not only inside the input.
        divisor_override: what to divide by instead.

    Returns:
        (N, C, H_out, W_out) or (C, H_out, W_out), with H_out = ⌊(H + 2·padding − kernel) / stride⌋ + 1.

    Raises:
        RuntimeError: where sizes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> avg_pool2d(jnp.arange(16.0).reshape(1, 4, 4), 2).tolist()
        [[[2.5, 4.5], [10.5, 12.5]]]
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    """The mean of each window over three axes; see `avg_pool2d`.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: as for `avg_pool2d`.

    Raises:
        RuntimeError: as `avg_pool2d`, and where the window is larger than the input, however padded.

    Example:
        >>> import jax.numpy as jnp
        >>> avg_pool3d(jnp.ones((1, 4, 4, 4)), 2).shape
        (1, 2, 2, 2)
    """
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@compiled
def _lp_pool(n: int, input: Any, norm_type: Any, kernel_size: Any, stride: Any, ceil_mode: bool) -> jax.Array:
    x = array(input, "input")
    norm = norm_type if isinstance(norm_type, (int, float)) else array(norm_type, "norm_type").item()
    many = isinstance(kernel_size, (tuple, list))
    if n > 1 and many and len(kernel_size) != n:
        raise ValueError(f"lp_pool{n}d: expected kernel_size to be an integer or {n} of them, got {kernel_size}")
    if math.isinf(norm):
        sign = 1 if norm > 0 else -1
        size = x * jnp.sign(x)  # not abs, whose derivative at 0 is 1
        return sign * _max_pool(n, sign * size, kernel_size, stride, 0, 1, ceil_mode, False)
    if n == 1 and many:
        raise TypeError(f"lp_pool1d: expected kernel_size to be an integer, got {kernel_size}")
    x = to_float32(x)
    if isinstance(norm, float) and not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(jnp.float32)
    power = accumulating(x) ** (int(norm) if float(norm).is_integer() else norm)
    mean = _avg_pool(n, power, kernel_size, stride, 0, ceil_mode, True)
    # torch gives windows of norm 0 the gradient 0, where the root has none.
    zero = mean == 0
    root = (jnp.where(zero, 1, mean) * math.prod(ntuple(kernel_size, n, "kernel_size"))) ** (1.0 / norm)
    y = jnp.where(zero, 0.0 if norm > 0 else jnp.inf, root)
    return y.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else y


def lp_pool1d(input: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> jax.Array:
    """`(Σ x^p)^(1/p)` of each window over one axis; see `lp_pool2d`.

    Args:
        input: (N, C, L) or (C, L).
        norm_type, kernel_size, stride, ceil_mode: as for `lp_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> lp_pool1d(jnp.array([[3.0, 4.0, 0.0, 1.0]]), 2, 2).tolist()
        [[5.0, 1.0]]
    """
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(input: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> jax.Array:
    """The power mean without the mean, `(Σ x^p)^(1/p)`, of each window over two axes.

    Args:
        input: (N, C, H, W) or (C, H, W).
        norm_type: p; ±∞ for the largest and the smallest magnitude. Negative elements are not made positive: an odd or
            broken p gives NaN where the sum is negative.
        kernel_size: the size of the window.
        stride: the step; the size of the window by default.
        ceil_mode: round the size of the output up instead of down; a window that reaches beyond the input is scaled up.

    Returns:
        (N, C, H_out, W_out) or (C, H_out, W_out), with H_out = ⌊(H − kernel) / stride⌋ + 1. The gradient is 0 where the
        sum is.

    Raises:
        RuntimeError, ValueError: where sizes do not fit.
        ZeroDivisionError: for p = 0.

    Example:
        >>> import jax.numpy as jnp
        >>> lp_pool2d(jnp.ones((1, 4, 4)), 2, 2).tolist()
        [[[2.0, 2.0], [2.0, 2.0]]]
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(input: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> jax.Array:
    """`(Σ x^p)^(1/p)` of each window over three axes; see `lp_pool2d`.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        norm_type, kernel_size, stride, ceil_mode: as for `lp_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> lp_pool3d(jnp.ones((1, 4, 4, 4)), 1, 2).shape
        (1, 2, 2, 2)
    """
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


def _adaptive_size(name: str, input: Any, n: int, output_size: Any) -> tuple[jax.Array, tuple[int, ...]]:
    """The input as an array, and the size of the output, where None keeps the input's."""
    x = array(input, "input")
    many = isinstance(output_size, (tuple, list))
    sizes = tuple(output_size) if many else (integer(output_size, "output_size"),) * n
    if n > 1 and many and len(sizes) >= x.ndim:
        raise ValueError(f"{name}: Input dimension should be at least {len(sizes) + 1}, got {x.ndim}")
    x = _spatial(name, x, n)
    floating(name, x.dtype)
    if len(sizes) != n:
        raise RuntimeError(f"{name}: output_size must be {n}, got {len(sizes)} numbers")
    pairs = zip(x.shape[-n:], sizes, strict=True)
    sizes = tuple(kept if size is None and n > 1 else integer(size, "output_size") for kept, size in pairs)
    if min(sizes) < 0:
        raise RuntimeError(f"{name}: elements of output_size must be greater than or equal to 0, got {sizes}")
    return x, sizes


@compiled
def _adaptive_max_pool(n: int, input: Any, output_size: Any, return_indices: bool) -> Any:
    name = f"adaptive_max_pool{n}d"
    x, shape = _adaptive_size(name, input, n, output_size)
    _not_empty(name, x, x.ndim - 1)
    windows = adaptive_windows(x.shape[-n:], shape)
    return maxima_and_places(x, windows) if return_indices else maxima(x, windows)


def adaptive_max_pool1d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """The maximum of as many windows as the output shall have elements, over one axis; see `adaptive_max_pool2d`.

    Args:
        input: (N, C, L) or (C, L).
        output_size: one number.
        return_indices: return also where each maximum was found.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_max_pool1d(jnp.arange(5.0).reshape(1, 5), 2).tolist()
        [[2.0, 4.0]]
    """
    return _adaptive_max_pool(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """The maximum of as many windows of nearly equal size as the output shall have elements.

    Window i of an axis goes from ⌊i · size / output⌋ to ⌈(i + 1) · size / output⌉.

    Args:
        input: (N, C, H, W) or (C, H, W).
        output_size: one number, or (H_out, W_out); None keeps the size of the input.
        return_indices: return also where in H·W each maximum was found.

    Returns:
        (N, C, H_out, W_out) or (C, H_out, W_out); with `return_indices` a pair of them.

    Raises:
        RuntimeError, ValueError: where the input has another number of axes, or an empty one.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_max_pool2d(jnp.arange(16.0).reshape(1, 4, 4), 2).tolist()
        [[[5.0, 7.0], [13.0, 15.0]]]
    """
    return _adaptive_max_pool(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """The maximum of as many windows as the output shall have elements, over three axes; see `adaptive_max_pool2d`.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        output_size: one number, or (D_out, H_out, W_out); None keeps the size of the input.
        return_indices: return also where each maximum was found.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_max_pool3d(jnp.ones((1, 4, 4, 4)), (2, None, 1)).shape
        (1, 2, 4, 1)
    """
    return _adaptive_max_pool(3, input, output_size, return_indices)


def adaptive_max_pool1d_with_indices(input: Any, output_size: Any, return_indices: bool = False) -> tuple[jax.Array, jax.Array]:
    """The maxima and where they were found: `adaptive_max_pool1d` with `return_indices`.

    Example:
        >>> import jax.numpy as jnp
        >>> [y.item() for y in adaptive_max_pool1d_with_indices(jnp.arange(4.0).reshape(1, 4), 1)]
        [3.0, 3]
    """
    return _adaptive_max_pool(1, input, output_size, True)


def adaptive_max_pool2d_with_indices(input: Any, output_size: Any, return_indices: bool = False) -> tuple[jax.Array, jax.Array]:
    """The maxima and where they were found: `adaptive_max_pool2d` with `return_indices`.

    Example:
        >>> import jax.numpy as jnp
        >>> [y.item() for y in adaptive_max_pool2d_with_indices(jnp.arange(4.0).reshape(1, 1, 4), 1)]
        [3.0, 3]
    """
    return _adaptive_max_pool(2, input, output_size, True)


def adaptive_max_pool3d_with_indices(input: Any, output_size: Any, return_indices: bool = False) -> tuple[jax.Array, jax.Array]:
    """The maxima and where they were found: `adaptive_max_pool3d` with `return_indices`.

    Example:
        >>> import jax.numpy as jnp
        >>> [y.item() for y in adaptive_max_pool3d_with_indices(jnp.arange(4.0).reshape(1, 1, 1, 4), 1)]
        [3.0, 3]
    """
    return _adaptive_max_pool(3, input, output_size, True)


@compiled
def _adaptive_avg_pool(n: int, input: Any, output_size: Any) -> jax.Array:
    name = f"adaptive_avg_pool{n}d"
    x, shape = _adaptive_size(name, input, n, output_size)
    _not_empty(name, x, x.ndim - 1 if n == 3 else n)
    return average(x, adaptive_windows(x.shape[-n:], shape), None, False)


def adaptive_avg_pool1d(input: Any, output_size: Any) -> jax.Array:
    """The mean over as many windows as the output shall have elements, over one axis; see `adaptive_avg_pool2d`.

    Args:
        input: (N, C, L) or (C, L).
        output_size: one number.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_avg_pool1d(jnp.arange(5.0).reshape(1, 5), 2).tolist()
        [[1.0, 3.0]]
    """
    return _adaptive_avg_pool(1, input, output_size)


def adaptive_avg_pool2d(input: Any, output_size: Any) -> jax.Array:
    """The mean over as many windows of nearly equal size as the output shall have elements.

    Window i of an axis goes from ⌊i · size / output⌋ to ⌈(i + 1) · size / output⌉.

    Args:
        input: (N, C, H, W) or (C, H, W).
        output_size: one number, or (H_out, W_out); None keeps the size of the input.

    Raises:
        RuntimeError, ValueError: where the input has another number of axes, or an empty one.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_avg_pool2d(jnp.arange(16.0).reshape(1, 4, 4), 1).tolist()
        [[[7.5]]]
    """
    return _adaptive_avg_pool(2, input, output_size)


def adaptive_avg_pool3d(input: Any, output_size: Any) -> jax.Array:
    """The mean over as many windows as the output shall have elements, over three axes; see `adaptive_avg_pool2d`.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        output_size: one number, or (D_out, H_out, W_out); None keeps the size of the input.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_avg_pool3d(jnp.ones((1, 4, 4, 4)), (2, None, 1)).shape
        (1, 2, 4, 1)
    """
    return _adaptive_avg_pool(3, input, output_size)


def _fractional_starts(samples: jax.Array, size: int, out: int, kernel: int) -> jax.Array:
    """Where `out` windows begin, for each sample (planes,): (planes, out)."""
    # Rounded after each operation as torch rounds, since one unit in the last place can move a window.
    info = jnp.finfo(samples.dtype)
    rounded = functools.partial(lax.reduce_precision, exponent_bits=info.nexp, mantissa_bits=info.nmant)
    sample = accumulating(samples)[:, None]
    steps, step = np.arange(max(out - 1, 0)).astype(samples.dtype), np.asarray(size - kernel).astype(samples.dtype)
    alpha = (step / np.asarray(max(out - 1, 1)).astype(samples.dtype)).astype(sample.dtype)
    begin = rounded(rounded(steps.astype(sample.dtype) + sample) * alpha).astype(jnp.int32)
    begin = begin - rounded(sample * alpha).astype(jnp.int32)
    return jnp.concatenate([begin, jnp.full((len(samples), min(out, 1)), size - kernel, jnp.int32)], axis=1)


@compiled
def _fractional_max_pool(
    n: int, input: Any, kernel_size: Any, output_size: Any, output_ratio: Any, random_samples: Any
) -> tuple[jax.Array, jax.Array]:
    name = f"fractional_max_pool{n}d"
    if output_size is None and output_ratio is None:
        raise ValueError(f"{name} requires specifying either an output_size or an output_ratio")
    x = _spatial(name, input, n, IndexError if random_samples is None else RuntimeError)
    floating(name, x.dtype)
    _not_empty(name, x, x.ndim - 1)
    space, kernel = x.shape[-n:], ntuple(kernel_size, n, "kernel_size")
    if output_size is not None:
        shape = ntuple(output_size, n, "output_size")
    else:
        ratios = tuple(output_ratio) if isinstance(output_ratio, (tuple, list)) else (output_ratio,) * n
        if len(ratios) != n:
            error = IndexError if len(ratios) < n else ValueError
            raise error(f"{name} requires output_ratio to be a number or {n} of them, got {output_ratio}")
        shape = tuple(int(size * ratio) for size, ratio in zip(space, ratios, strict=True))
    spare = [size - (out + k - 1) for size, out, k in zip(space, shape, kernel, strict=True)]
    if min(kernel) < 1 or min(shape) < 0 or min(spare) < (1 if n == 3 else 0):  # as strict as torch, in 3 dimensions
        raise RuntimeError(f"{name}: kernel_size {kernel} and output_size {shape} do not fit the input's {list(x.shape)}")
    batch, channels = x.shape[:-n] if x.ndim == n + 2 else (1, x.shape[0])
    if random_samples is None:
        samples = jax.random.uniform(next_key(), (batch, channels, n), x.dtype)
    else:
        samples = array(random_samples, "_random_samples")
        same_dtype(name, input=x, _random_samples=samples)
        if samples.ndim != 3 or samples.shape[0] < batch or samples.shape[1:] != (channels, n):
            raise RuntimeError(f"{name}: expected _random_samples of size {[batch, channels, n]}, got {list(samples.shape)}")
    samples = samples[:batch].reshape(batch * channels, n)
    if n == 2:
        samples = samples[:, ::-1]  # torch's are for width and height, in this order
    positions = [
        _fractional_starts(samples[:, i], size, out, k)[..., None] + np.arange(k, dtype=np.int32)
        for i, (size, out, k) in enumerate(zip(space, shape, kernel, strict=True))
    ]
    places = jax.vmap(first_maxima)(x.reshape(batch * channels, *space), positions).reshape(*x.shape[:-n], *shape)
    return taken(x, places, n, -jnp.inf), places


def fractional_max_pool2d(
    input: Any,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Any = None,
) -> Any:
    """The maximum of each of a given number of windows, whose places are drawn anew for each channel.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size: the size of the window.
        output_size: the size of the output, one number or (H_out, W_out).
        output_ratio: or its ratio to the size of the input.
        return_indices: return also where in H·W each maximum was found.
        _random_samples: (N, C, 2), numbers from 0 to 1 for width and height, which decide where windows begin; drawn by
            default.

    Returns:
        (N, C, H_out, W_out) or (C, H_out, W_out); with `return_indices` a pair of them.

    Raises:
        RuntimeError, ValueError: where sizes do not fit, or neither size nor ratio is given.
        StateError: under plain JAX tracing without a key; see `fnn.rng`.

    References:
        Graham, Fractional Max-Pooling, https://arxiv.org/abs/1412.6071

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> with fnn.rng(0):
        ...     fractional_max_pool2d(jnp.ones((1, 9, 9)), 2, output_ratio=(0.5, 0.5)).shape
        (1, 4, 4)
    """
    found = _fractional_max_pool(2, input, kernel_size, output_size, output_ratio, _random_samples)
    return found if return_indices else found[0]


def fractional_max_pool3d(
    input: Any,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Any = None,
) -> Any:
    """The maximum of windows at random places over three axes; see `fractional_max_pool2d`.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        kernel_size, output_size, output_ratio, return_indices: as for `fractional_max_pool2d`.
        _random_samples: (N, C, 3), for depth, height and width.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> with fnn.rng(0):
        ...     fractional_max_pool3d(jnp.ones((1, 9, 9, 9)), 2, output_ratio=(0.5, 0.5, 0.5)).shape
        (1, 4, 4, 4)
    """
    found = _fractional_max_pool(3, input, kernel_size, output_size, output_ratio, _random_samples)
    return found if return_indices else found[0]


def fractional_max_pool2d_with_indices(
    input: Any,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """The maxima and where they were found: `fractional_max_pool2d` with `return_indices`.

    Example:
        >>> import jax.numpy as jnp
        >>> samples = jnp.full((1, 1, 2), 0.5)
        >>> fractional_max_pool2d_with_indices(jnp.ones((1, 4, 4)), 2, 1, _random_samples=samples)[1].item()
        10
    """
    return _fractional_max_pool(2, input, kernel_size, output_size, output_ratio, _random_samples)


def fractional_max_pool3d_with_indices(
    input: Any,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """The maxima and where they were found: `fractional_max_pool3d` with `return_indices`.

    Example:
        >>> import jax.numpy as jnp
        >>> samples = jnp.full((1, 1, 3), 0.5)
        >>> fractional_max_pool3d_with_indices(jnp.ones((1, 4, 4, 4)), 2, 1, _random_samples=samples)[1].item()
        42
    """
    return _fractional_max_pool(3, input, kernel_size, output_size, output_ratio, _random_samples)


def _max_unpool(n: int, input: Any, indices: Any, kernel_size: Any, stride: Any, padding: Any, output_size: Any) -> jax.Array:
    name = f"max_unpool{n}d"
    x, places = _spatial(name, input, n), array(indices, "indices")
    kernel, pads = ntuple(kernel_size, n, "kernel_size"), ntuple(padding, n, "padding")
    strides = kernel if stride is None else ntuple(stride, n, "stride")
    shape = tuple((size - 1) * s + k - 2 * p for size, s, k, p in zip(x.shape[-n:], strides, kernel, pads, strict=True))
    if output_size is not None:
        wanted = tuple(integer(size, "output_size") for size in output_size)
        wanted = wanted[2:] if len(wanted) == n + 2 else wanted
        if len(wanted) != n:
            raise ValueError(f"output_size should be a sequence containing {n} or {n + 2} elements, got {output_size}")
        if any(abs(size - usual) >= s for size, usual, s in zip(wanted, shape, strides, strict=True)):
            raise ValueError(f'invalid output_size "{output_size}": expected less than {strides} away from {shape}')
        shape = wanted
    if min(shape) < 0:
        raise ValueError(f"max_unpooling: output_size must contain non-negative spatial dimensions, but got {shape}")
    floating(name, x.dtype)
    if n == 3 and min(strides) < 1:
        raise RuntimeError(f"strides should be greater than zero, but got stride: {strides}")
    if not jnp.issubdtype(places.dtype, jnp.integer):
        raise RuntimeError(f"elements in indices should be of an integer dtype, got {places.dtype.name}")
    if places.shape != x.shape:
        raise RuntimeError(
            f"Expected shape of indices to be same as that of the input ({list(x.shape)}) but got {list(places.shape)}"
        )
    _not_empty(name, x, x.ndim - 1)
    lead, size = x.shape[:-n], math.prod(shape)
    flat, where = (a.reshape(math.prod(lead), math.prod(x.shape[-n:])) for a in (x, places))
    values = known(where)
    if values is not None and (wrong := values[(values < 0) | (values >= size)]).size:
        raise RuntimeError(f"Found an invalid max index: {wrong[0]} (output volumes are of size {shape})")
    y = put(flat, where, size)
    if values is None:
        y = jnp.where(((where < 0) | (where >= size)).any(1, keepdims=True), jnp.nan, y)
    return y.reshape(*lead, *shape)


def max_unpool1d(
    input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> jax.Array:
    """The partial inverse of `max_pool1d`; see `max_unpool2d`.

    Args:
        input: (N, C, L) or (C, L).
        indices, kernel_size, stride, padding, output_size: as for `max_unpool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> max_unpool1d(jnp.array([[3.0, 2.0]]), jnp.array([[1, 2]]), 2).tolist()
        [[0.0, 3.0, 2.0, 0.0]]
    """
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> jax.Array:
    """The partial inverse of `max_pool2d`: the maxima back where they were found, among zeros.

    Args:
        input: (N, C, H, W) or (C, H, W).
        indices: of the input's shape, where in H_out·W_out each element goes, as `max_pool2d` returns them. Of elements for
            one place the last stays on the CPU and any elsewhere, and each gets the gradient.
        kernel_size: the size of the window.
        stride: the step; the size of the window by default.
        padding: that of the pooling.
        output_size: (H_out, W_out), or a whole shape that ends with it; by default
            H_out = (H − 1) · stride + kernel − 2 · padding, from which it may differ by less than the step.

    Returns:
        (N, C, H_out, W_out) or (C, H_out, W_out). Under a JAX transformation, where indices are not known, one that is out
        of range makes its channel NaN.

    Raises:
        RuntimeError: where an index is out of range, outside of transformations, or shapes do not fit.
        ValueError: where `output_size` is not possible.

    Example:
        >>> import jax.numpy as jnp
        >>> max_unpool2d(jnp.array([[[7.0]]]), jnp.array([[[2]]]), 2).tolist()
        [[[0.0, 0.0], [7.0, 0.0]]]
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> jax.Array:
    """The partial inverse of `max_pool3d`; see `max_unpool2d`.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        indices, kernel_size, stride, padding, output_size: as for `max_unpool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> max_unpool3d(jnp.ones((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1), int), 2).shape
        (1, 2, 2, 2)
    """
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)
