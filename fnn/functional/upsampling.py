"""Resizing: each axis apart, by a few taps for each place of the output."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.eager import compiled
from fnn.functional.checks import accumulating, array, integer
from fnn.functional.pooling import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d
from fnn.kernels.upsampling import Taps, resample
from fnn.precision import to_float32

__all__ = ["interpolate", "upsample", "upsample_bilinear", "upsample_nearest"]

_NEAREST = ("nearest", "nearest-exact")
_MODES = {**dict.fromkeys((*_NEAREST, "area"), (3, 4, 5)), "linear": (3,), "bilinear": (4,), "trilinear": (5,)}
_MODES |= {"bicubic": (4,), "lanczos": (4,)}
_ANTIALIASED = ("bilinear", "bicubic", "lanczos")


class _Axis(NamedTuple):
    """How one axis is resized; numbers have the precision in which torch computes coordinates."""

    size: int
    out: int
    scale: Any  # the step in the input for one in the output
    aligned: bool

    @property
    def number(self) -> Any:
        return type(self.scale)

    def source(self) -> np.ndarray:
        """Where in the input each place of the output lies."""
        i = np.arange(self.out, dtype=self.number)
        if self.aligned:
            return self.scale * i
        # One rounding in all, as the fused multiply-add that torch is compiled to has.
        return (np.longdouble(self.scale) * (i + self.number(0.5)) - 0.5).astype(self.number)


def _axis(size: int, out: int, factor: float | None, aligned: bool, number: Any) -> _Axis:
    if aligned:
        scale = number(size - 1) / number(out - 1) if out > 1 else number(0)
    elif factor is not None and factor > 0:
        scale = number(1.0 / factor)
    else:
        scale = number(size) / number(out)
    return _Axis(size, out, scale, aligned)


def _floor(source: np.ndarray) -> np.ndarray:
    """As torch rounds down, which is in float32 also for float64."""
    return np.floor(source.astype(np.float32)).astype(int)


def _nearest(axis: _Axis, exact: bool, small: bool) -> Taps:
    i = np.arange(axis.out)
    source: np.ndarray
    if small and exact:
        source = ((i + 0.5) * np.float64(axis.scale)).astype(np.float32)
    elif small and axis.out in (axis.size, 2 * axis.size):
        source = i * axis.size // axis.out  # whatever the scale factor says
    elif exact:
        source = np.maximum(axis.source(), axis.number(0)) + axis.number(0.5)
    else:
        source = axis.scale * i.astype(axis.number)
    return Taps(np.minimum(_floor(source), axis.size - 1)[None], None)


def _interpolating(axis: _Axis, count: int) -> Taps:
    """Two taps of linear, or four of cubic interpolation; beyond the border the border counts."""
    source = axis.source() if count == 4 else np.maximum(axis.source(), axis.number(0))
    if count == 2 and axis.out == axis.size:  # a copy, whatever the scale factor says
        here = np.arange(axis.out)
        return Taps(np.stack([here, here]), np.stack([np.ones_like(source), np.zeros_like(source)]))
    base = np.minimum(_floor(source), axis.size - 1)
    fraction = np.clip(source - base, 0, 1).astype(axis.number)
    weights = cubic_weights(fraction) if count == 4 else [1 - fraction, fraction]
    first = 1 - count // 2
    index = np.stack([np.clip(base + t, 0, axis.size - 1) for t in range(first, first + count)])
    return Taps(index, np.stack(weights))


def cubic_weights(t: Any, a: float = -0.75) -> list[Any]:
    """The weights of four neighbours, at distances 1 + t, t, 1 − t and 2 − t, in cubic convolution.

    References:
        Keys, Cubic convolution interpolation for digital image processing, https://doi.org/10.1109/TASSP.1981.1163711
    """
    return [_cubic_far(1 + t, a), _cubic_near(t, a), _cubic_near(1 - t, a), _cubic_far(2 - t, a)]


def _cubic_near(x: Any, a: float) -> Any:
    return ((a + 2) * x - (a + 3)) * x * x + 1


def _cubic_far(x: Any, a: float) -> Any:
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a


# For each mode half of the filter's width, and the filter. The cubic one is Pillow's.
_FILTERS: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "bilinear": (1, lambda x: np.where(x < 1, 1 - x, 0)),
    "bicubic": (2, lambda x: np.where(x < 1, _cubic_near(x, -0.5), np.where(x < 2, _cubic_far(x, -0.5), 0))),
    "lanczos": (3, lambda x: np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0)),
}


def _filtered(axis: _Axis, mode: str) -> Taps:
    """Taps of a filter as wide as the step in the input, so that none of the input is left out."""
    number, (half, filter) = axis.number, _FILTERS[mode]
    widened = max(axis.scale, number(1))
    support = number(half) * widened
    center = (np.float64(axis.scale) * (np.arange(axis.out) + 0.5)).astype(number)
    first = np.maximum((np.float64(center - support) + 0.5).astype(int), 0)
    last = np.minimum((np.float64(center + support) + 0.5).astype(int), axis.size)
    span = np.clip(last - first, 0, math.ceil(support) * 2 + 1)
    places = np.arange(max(span.max(initial=1), 1))[:, None]
    distance = (np.float64((places + first - center).astype(number)) + 0.5) * np.float64(number(1) / widened)
    weight = np.where(places < span, filter(np.abs(distance.astype(number))), 0).astype(number)
    total = weight.sum(0)
    weight /= np.where(total == 0, number(1), total)
    return Taps(np.minimum(first + np.minimum(places, np.maximum(span - 1, 0)), axis.size - 1), weight)


def _taps(axis: _Axis, mode: str, antialias: bool, small: bool) -> Taps:
    if mode in _NEAREST:
        return _nearest(axis, mode == "nearest-exact", small)
    return _filtered(axis, mode) if antialias else _interpolating(axis, 4 if mode == "bicubic" else 2)


def _resample_bytes(x: jax.Array, axis: int, taps: Taps) -> jax.Array:
    """The sum of taps of uint8 as torch computes it: with weights of 16 bits, and rounded to uint8."""
    index, weight = taps.indices, np.array(taps.weights, np.float64)
    for t in range(len(weight) - 1, 0, -1):
        same = index[t] == index[t - 1]
        weight[t - 1] += np.where(same, weight[t], 0)
        weight[t] *= ~same
    largest = weight.max()
    bits = next((p for p in range(22) if int(0.5 + largest * (1 << (p + 1))) >= 1 << 15), 22)
    scaled = np.trunc(weight * (1 << bits) + np.where(weight < 0, -0.5, 0.5)).astype(np.int32)
    total = resample(x.astype(jnp.int32), axis, Taps(index, scaled)) + (1 << (bits - 1))
    return jnp.clip(total >> bits, 0, 255).astype(jnp.uint8)


def _is_whole(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return isinstance(value, (int, np.integer)) or (dtype is not None and jnp.issubdtype(dtype, jnp.integer))


def _sizes(x: jax.Array, size: Any) -> list[int]:
    space = x.shape[2:]
    if not isinstance(size, (list, tuple)):
        if isinstance(size, bool):
            raise TypeError(f"argument 'size' must be int or a tuple of ints, got {size}")
        return [integer(size, "size")] * len(space)
    if len(size) != len(space):
        raise ValueError(
            "Input and output must have the same number of spatial dimensions, but got input with spatial dimensions of "
            f"{list(space)} and output size of {size}. Please provide an input (N, C, d1, d2, ..., dK) and an output size "
            "(o1, o2, ..., oK)."
        )
    if not all(map(_is_whole, size)):
        raise TypeError(f"expected size to be int or a tuple of ints, but got {size}")
    return [integer(s, "size") for s in size]


def _factors(x: jax.Array, scale_factor: Any) -> list[float]:
    space = x.shape[2:]
    factors = scale_factor if isinstance(scale_factor, (list, tuple)) else [scale_factor] * len(space)
    if len(factors) != len(space):
        raise ValueError(
            "Input and scale_factor must have the same number of spatial dimensions, but got input with spatial dimensions "
            f"of {list(space)} and scale_factor {scale_factor}. Please provide an input (N, C, d1, d2, ..., dK) and a "
            "scale_factor (s1, s2, ..., sK)."
        )
    if any(isinstance(f, str) or not hasattr(f, "__float__") for f in factors):
        raise TypeError(f"argument 'scale_factor' must be float or a tuple of floats, got {scale_factor!r}")
    return [float(f) for f in factors]


@compiled
def interpolate(
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> jax.Array:
    """Resizes all axes but the first two.

    Place i of an output axis lies at `(i + 0.5) · scale − 0.5` of the input, with `scale` = input size / output size, or
    1 / scale_factor where that is given; at `i · (input − 1) / (output − 1)` with `align_corners`.

    Args:
        input: (N, C, L), (N, C, H, W) or (N, C, D, H, W), floating point; uint8 also, for the nearest modes and for
            bilinear, bicubic and lanczos, where the result is rounded.
        size: of the output, one number or one for each axis.
        scale_factor: instead of it the output size / input size, rounded down to whole sizes.
        mode: nearest (element ⌊i · scale⌋), nearest-exact (the nearest element), linear, bilinear, trilinear, bicubic (with
            a = −0.75), area (adaptive average pooling), or lanczos (with antialias).
        align_corners: the first and last elements of input and output lie at the same places; for the linear modes and
            bicubic.
        recompute_scale_factor: take the scale from the sizes although scale_factor is given.
        antialias: widen the filter where the input is larger than the output, as Pillow does, with a = −0.5 for bicubic; for
            bilinear, bicubic and lanczos of four axes.

    Returns:
        (N, C, ...). The gradient is that of the value, also for scale factors where torch's own differs (a nearest or
        bicubic resizing that keeps or doubles the size by a factor other than 1 or 2).

    Raises:
        ValueError: where not one of size and scale_factor is given, or options do not go together.
        NotImplementedError: where the mode does not take so many axes or such a dtype.
        RuntimeError: where a size is not positive.

    References:
        Keys, Cubic convolution interpolation for digital image processing, https://doi.org/10.1109/TASSP.1981.1163711

    Example:
        >>> import jax.numpy as jnp
        >>> interpolate(jnp.array([[[0.0, 4.0]]]), scale_factor=2, mode="linear").tolist()
        [[[0.0, 1.0, 3.0, 4.0]]]
    """
    x = array(input, "input")
    if align_corners is not None and mode in (*_NEAREST, "area"):
        raise ValueError(
            "align_corners option can only be set with the interpolating modes: linear | bilinear | bicubic | trilinear, "
            f"got mode {mode!r}"
        )
    if size is not None and scale_factor is not None:
        raise ValueError(f"only one of size or scale_factor should be defined, got {size} and {scale_factor}")
    if size is None and scale_factor is None:
        raise ValueError("either size or scale_factor should be defined")
    if recompute_scale_factor and size is not None:
        raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
    factors = None if scale_factor is None else _factors(x, scale_factor)
    sizes = _sizes(x, size) if factors is None else []
    if factors is not None and (recompute_scale_factor or mode == "area"):
        sizes, factors = [int(n * f) for n, f in zip(x.shape[2:], factors, strict=True)], None
    if antialias and not (mode in _ANTIALIASED and x.ndim == 4):
        raise ValueError(
            "Anti-alias option is restricted to bilinear, bicubic, and lanczos modes and requires a 4-D tensor as input, got "
            f"mode {mode!r} and {x.ndim}-D"
        )
    if x.ndim not in _MODES.get(mode, ()):
        raise NotImplementedError(
            f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {x.ndim}D) for the modes: nearest | nearest-exact "
            f"| area, 3D for linear, 4D for bilinear | bicubic | lanczos, 5D for trilinear (got {mode})"
        )
    if not isinstance(align_corners, (bool, np.bool_, type(None))):
        raise TypeError(f"align_corners must be a bool, got {align_corners!r}")
    if mode == "lanczos" and (align_corners or not antialias):
        raise ValueError(f"Lanczos mode requires antialias=True and align_corners=False, got {antialias} and {align_corners}")
    if factors is not None:
        if not all(map(math.isfinite, factors)):
            raise RuntimeError(f"scale_factor must be finite, got {scale_factor}")
        sizes = [int(n * f) for n, f in zip(x.shape[2:], factors, strict=True)]
    if mode == "area":
        return (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)[x.ndim - 3](x, sizes)
    x = to_float32(x)
    if min(*x.shape[2:], *sizes) < 1:
        raise RuntimeError(
            f"Input and output sizes should be greater than 0, but got input {list(x.shape[2:])} and output {sizes}"
        )
    if 0 in x.shape[1:]:
        raise RuntimeError(f"Non-empty {x.ndim}D data tensor expected but got a tensor with sizes {list(x.shape)}")
    whole = x.dtype == jnp.uint8 and mode in (*_NEAREST, *_ANTIALIASED)
    if not whole and not jnp.issubdtype(x.dtype, jnp.floating):
        raise NotImplementedError(f'"interpolate" not implemented for {x.dtype.name} in mode {mode!r}')
    copied = mode in _NEAREST
    # torch takes other rounding, and a shortcut, for the nearest elements of small images.
    small = x.ndim == 4 and sum(sizes) <= 128
    double = (x.dtype == jnp.float64 and not (copied and small)) or (whole and not copied)
    axes = [
        _axis(n, out, None if factors is None else factors[i], bool(align_corners), np.float64 if double else np.float32)
        for i, (n, out) in enumerate(zip(x.shape[2:], sizes, strict=True))
    ]
    along = _resample_bytes if whole and not copied else resample
    filtered = antialias or (whole and not copied)
    y = x if whole or copied else accumulating(x)
    # The last axis first, as rounding of uint8 has it; and the axis that shrinks most is the best one to begin with.
    order = reversed(range(len(axes))) if whole else sorted(range(len(axes)), key=lambda i: axes[i].out / axes[i].size)
    for i in order:
        if not (filtered and axes[i].out == axes[i].size):  # else a copy, whatever the scale factor says
            y = along(y, i + 2, _taps(axes[i], mode, antialias, small))
    return y.astype(x.dtype)


def _deprecated(name: str) -> None:
    warnings.warn(f"`nn.functional.{name}` is deprecated. Use `nn.functional.interpolate` instead.", stacklevel=3)


def upsample(
    input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None
) -> jax.Array:
    """`interpolate`, by the name that torch deprecates.

    Args:
        input, size, scale_factor, mode, align_corners: as for `interpolate`.

    Example:
        >>> import jax.numpy as jnp
        >>> upsample(jnp.array([[[1.0, 2.0]]]), 4).tolist()
        [[[1.0, 1.0, 2.0, 2.0]]]
    """
    _deprecated("upsample")
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: Any, size: Any = None, scale_factor: Any = None) -> jax.Array:
    """`interpolate` to the nearest element, by the name that torch deprecates.

    Args:
        input, size, scale_factor: as for `interpolate`.

    Example:
        >>> import jax.numpy as jnp
        >>> upsample_nearest(jnp.array([[[1.0, 2.0]]]), scale_factor=2).tolist()
        [[[1.0, 1.0, 2.0, 2.0]]]
    """
    _deprecated("upsample_nearest")
    return interpolate(input, size, scale_factor, "nearest")


def upsample_bilinear(input: Any, size: Any = None, scale_factor: Any = None) -> jax.Array:
    """`interpolate` bilinearly with aligned corners, by the name that torch deprecates.

    Args:
        input: (N, C, H, W).
        size, scale_factor: as for `interpolate`.

    Example:
        >>> import jax.numpy as jnp
        >>> upsample_bilinear(jnp.array([[[[0.0, 2.0]]]]), (1, 3)).tolist()
        [[[[0.0, 1.0, 2.0]]]]
    """
    _deprecated("upsample_bilinear")
    return interpolate(input, size, scale_factor, "bilinear", True)
